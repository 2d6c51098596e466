"""From which scores a detector's detections may serve as targets, chosen on a labeled split.

Published semi-supervised detectors use one score for all classes and data (0.7 in Unbiased Teacher, ICLR 2021, 0.9 in Soft Teacher,
ICCV 2021) or fit one during the training (Consistent-Teacher, CVPR 2023). Here every class has the least score at which its detections
on labeled images are as precise as asked for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.accuracy.matches import MAX_DETECTIONS, THRESHOLDS, match
from deploy.errors import DataError
from deploy.prediction.detections import class_names
from stages.config import PseudoConfig
from stages.unlabeled_facts import PseudoClass

MIN_OBJECTS = 10
"""A class with fewer objects on the split has the thresholds of all classes together."""
MISSED = 0.05
"""Share of the objects found on the split that lie below the least score at which a detection may be an object."""
MIN_DETECTIONS = 5
"""A precision is that of at least this many detections."""
_FOUND, _EXACT = 0, int(np.argmin(abs(THRESHOLDS - 0.75)))

Scores = NDArray[np.float64]
Hits = NDArray[np.bool_]


def choose(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], rule: PseudoConfig) -> dict[str, PseudoClass]:
    """The thresholds of every class by its name.

    Args:
        truth: the split's ground truth. results: all detections in it, as COCO's results.

    Raises:
        DataError: thresholds have to be found, and the split has no objects.
    """
    found = match(truth, results)
    names = class_names(truth)
    scores = {name: _scores(results, key) for key, name in names.items()}
    # what lies in a crowd, or on an object that is difficult, is right, but none of the objects that are counted
    hits = {
        name: (one.hit[_FOUND] | one.ignored[_FOUND], one.hit[_EXACT] | one.ignored[_EXACT], one.hit[_FOUND])
        for name, one in found.classes.items()
    }
    objects = {name: int(one.objects.sum()) for name, one in found.classes.items()}
    if rule.threshold == "auto" and not sum(objects.values()):
        raise DataError("pseudo-labels: the judged split has no objects to choose thresholds on; label some, or set pseudo.threshold")
    order = np.argsort(-np.concatenate(list(scores.values())), kind="mergesort")
    every = [np.concatenate([rows[row] for rows in hits.values()])[order] for row in range(3)]
    pooled = _class(np.concatenate(list(scores.values()))[order], every, sum(objects.values()), rule)
    chosen = {}
    for name in names.values():
        own = _class(scores[name], hits[name], objects[name], rule)
        if objects[name] < MIN_OBJECTS:
            own = _judged(scores[name], hits[name], objects[name], pooled)
        chosen[name] = own
    return chosen


def _scores(results: Sequence[Mapping[str, Any]], category: int) -> Scores:
    """The scores of a class's detections that are matched, the best first: the best MAX_DETECTIONS of each image."""
    by_image: dict[int, list[float]] = {}
    for one in results:
        if one["category_id"] == category:
            by_image.setdefault(one["image_id"], []).append(one["score"])
    kept = [score for own in by_image.values() for score in sorted(own, reverse=True)[:MAX_DETECTIONS]]
    return np.array(sorted(kept, reverse=True), dtype=np.float64)


def _class(scores: Scores, hits: Sequence[Hits], num_objects: int, rule: PseudoConfig) -> PseudoClass:
    """The thresholds of detections that are right, exact, or one of the objects [D each]."""
    if not num_objects:  # nothing says how good a detection is: all of an accepted one is learned
        given = None if rule.threshold == "auto" else float(rule.threshold)
        return PseudoClass(accept=given, low=given, sure=given, num_objects=0, precision=None, recall=None)
    accept = float(rule.threshold) if rule.threshold != "auto" else _least(scores, hits[0], rule.precision)
    sure = _least(scores, hits[1], rule.box_precision)
    objects = scores[hits[0]]
    low = float(np.quantile(objects, MISSED)) if len(objects) else accept
    return _judged(scores, hits, num_objects, PseudoClass(accept=accept, low=low, sure=sure, num_objects=0, precision=None, recall=None))


def _judged(scores: Scores, hits: Sequence[Hits], num_objects: int, thresholds: PseudoClass) -> PseudoClass:
    """The thresholds, with what they accept of this class."""
    accept, low, sure = thresholds.accept, thresholds.low, thresholds.sure
    right, _, objects = (hit[scores >= accept] if accept is not None else hit[:0] for hit in hits)
    return thresholds.model_copy(
        update={
            "low": low if accept is None or low is None else min(low, accept),
            "sure": sure if accept is None or sure is None else max(sure, accept),
            "num_objects": num_objects,
            "precision": float(right.mean()) if len(right) and num_objects else None,
            "recall": float(objects.sum()) / num_objects if num_objects else None,
        }
    )


def _least(scores: Scores, hit: Hits, precision: float) -> float | None:
    """The least score from which on this share of the detections are hits; None if no score has it."""
    counts = np.arange(1, len(hit) + 1)
    last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # of those with the same score, which are accepted together
    enough = np.flatnonzero((np.cumsum(hit) >= precision * counts) & (counts >= min(MIN_DETECTIONS, len(hit))) & last)
    return float(scores[enough[-1]]) if len(enough) else None
