"""Which views of an image label it best, judged on labeled images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.accuracy.judge import LabeledSplit, evaluated
from deploy.contract import ModelContract
from deploy.errors import ConfigError
from stages.config import PseudoConfig
from stages.measurement.splits import some
from stages.training.unlabeled.finding import EVERY, Finder, Views

MOST_IMAGES = 500
"""Of the judged split, evenly spread, that are looked at in several views."""


@dataclass(frozen=True)
class Look:
    """The views, and what is found with them in images with this ground truth.

    map, plain_map: the mAP of these detections, and of those by one view; None if undefined or not asked for.
    """

    views: Views
    truth: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    map: float | None = None
    plain_map: float | None = None


def looked(
    finder: Finder, split: LabeledSplit, plain: Sequence[Mapping[str, Any]], contract: ModelContract, rule: PseudoConfig | None
) -> Look:
    """The views that the rule names or, if they are to be found, those with the highest mAP; of equal ones, the cheapest.

    Args:
        plain: the detections in all images of the split by one view.

    Raises:
        ConfigError: views are named for a detector with masks, which are not joined.
    """
    if finder.has_masks and rule is not None and rule.views not in ("auto", ()):
        raise ConfigError("distill.unlabelled.pseudo.views: masks of several views are not joined; set it to [] for a teacher with masks")
    if rule is None or rule.views == () or finder.has_masks or not split.truth["annotations"]:
        return Look(() if rule is None or rule.views == "auto" else rule.views, split.truth, plain)
    judged = some(split, MOST_IMAGES)
    images = [(row["id"], path) for row, path in zip(judged.truth["images"], judged.images, strict=True)]
    boxes = contract.model_copy(update={"mask_frame": None})
    found = finder.compared(images, EVERY if rule.views == "auto" else ((), rule.views), "compare views")
    maps = {views: evaluated(judged, list(results), boxes).accuracy.map for views, results in found.items()}
    views = max(maps, key=lambda one: maps[one] or 0.0) if rule.views == "auto" else rule.views
    return Look(views, judged.truth, found[views], maps[views], maps[()])
