"""One engine as gates see it: its figures, and how to run it when two must be compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.comparison.bootstrap import Recomputed
from deploy.comparison.metrics import Figures
from deploy.contract import ModelContract
from deploy.runtimes import Session


@dataclass(frozen=True)
class Side:
    """One side of a comparison; `why` is the reason if it was not measured.

    detections: all detections on the split, as COCO results. open: opens a session, which the caller closes.
    data: hash and number of the images that accuracy was measured on, if known.
    statistic: a metric of robustness for any weights of the images; None if nothing of it was measured.
    """

    name: str
    figures: Figures
    contract: ModelContract
    open: Callable[[], Session]
    detections: Callable[[], Sequence[Mapping[str, Any]]]
    why: str | None = None
    data: tuple[str, int] | None = None
    statistic: Callable[[str], Recomputed] | None = None
