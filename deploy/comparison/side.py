"""One engine as gates see it: its figures, and how it is run where two must be compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.comparison.metrics import Figures
from deploy.contract import ModelContract
from deploy.runtimes import Session


@dataclass(frozen=True)
class Side:
    """`why` says the reason where it was not measured.

    detections: all of the split's, as COCO results. open: a session; the caller closes it.
    data: what the accuracy was measured on, by hash and number of images, where that is known.
    """

    name: str
    figures: Figures
    contract: ModelContract
    open: Callable[[], Session]
    detections: Callable[[], Sequence[Mapping[str, Any]]]
    why: str | None = None
    data: tuple[str, int] | None = None
