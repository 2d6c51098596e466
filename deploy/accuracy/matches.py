"""COCO's matches image by image, from which mAP can be recomputed for any weights of the images.

The overlaps come from faster-coco-eval; matching, and thus precision, follows COCO's greedy rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from deploy.accuracy.coco import RECALLS, as_data_set, quiet, sound
from deploy.prediction.detections import class_names

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 100
_STEPS = np.linspace(0, 1, RECALLS)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


@dataclass(frozen=True)
class ClassMatches:
    """One class's detections, the best score first.

    image [D] is the index of each detection's image; hit and ignored [T, D] tell for each IoU threshold whether it found an object,
    and whether it is ignored. objects [I] is the number of the class's objects in each image.
    """

    image: NDArray[np.intp]
    hit: Bools
    ignored: Bools
    objects: NDArray[np.float64]

    @cached_property
    def _hits(self) -> list[NDArray[np.intp]]:
        """Positions of the hits at each threshold: precision peaks there, and recall rises only there."""
        return [np.flatnonzero(row) for row in self.hit]

    def precision(self, weights: Floats, thresholds: slice) -> Floats | None:
        """Average precision at each threshold, with each image counted `weights` [I] times; None if there is no object."""
        total = float(weights @ self.objects)
        if total <= 0:
            return None
        counts = weights[self.image]
        every = np.cumsum(counts)
        rows = range(len(self.hit))[thresholds]
        return np.array([self._average(row, counts, every, total) for row in rows])

    def _average(self, row: int, counts: Floats, every: Floats, total: float) -> float:
        hits, ignored = self._hits[row], self.ignored[row]
        if not hits.size:
            return 0.0
        seen = (np.cumsum(counts * ~ignored) if ignored.any() else every)[hits]
        found = np.cumsum(counts[hits])
        precision = found / np.maximum(seen, np.finfo(np.float64).eps)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(found / total, _STEPS)
        return float(precision[at[at < found.size]].sum()) / RECALLS


@dataclass(frozen=True)
class Matches:
    """Every class's matches on the images of one ground truth, by the class's name."""

    num_images: int
    classes: Mapping[str, ClassMatches]

    def mean_precision(self, weights: Floats | None = None, thresholds: slice = slice(None)) -> float | None:
        """mAP with each image counted `weights` [I] times, once by default; None if there is no object at all."""
        counts = np.ones(self.num_images) if weights is None else weights
        rows = [row for one in self.classes.values() if (row := one.precision(counts, thresholds)) is not None]
        return float(np.mean([row.mean() for row in rows])) if rows else None

    def num_with_objects(self, inside: Floats | None = None) -> int:
        """The number of images with objects that count, of those with `inside` [I] above 0, all by default."""
        objects = np.sum([one.objects for one in self.classes.values()], axis=0)
        return int(np.count_nonzero(objects if inside is None else objects * inside))


def match(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    kind: Literal["bbox", "segm"] = "bbox",
    area: str = "all",
    classes: Sequence[str] = (),
) -> Matches:
    """Match COCO results with a COCO ground truth.

    Args:
        kind: bbox or segm.
        area: size of the objects that count; a key of AREAS.
        classes: names of the classes that count; all by default.
    """
    gt, dt = COCO(sound(truth), print_function=quiet), COCO(as_data_set(truth, results, kind), print_function=quiet)
    judge = COCOeval_faster(gt, dt, kind, print_function=quiet)
    judge.evaluate()
    ids = sorted(image["id"] for image in truth["images"])
    names = class_names(truth)
    chosen = {key: name for key, name in names.items() if not classes or name in classes}
    made = {name: _of_class(gt, dt, judge.ious, ids, key, AREAS[area]) for key, name in chosen.items()}
    return Matches(len(ids), made)


def _of_class(gt: Any, dt: Any, ious: Mapping[Any, Any], images: Sequence[int], category: int, area: tuple[float, float]) -> ClassMatches:
    scores, image, hits, ignored = [], [], [], []
    objects = np.zeros(len(images))
    for index, key in enumerate(images):
        truth = gt.loadAnns(gt.getAnnIds(imgIds=[key], catIds=[category]))
        found = dt.loadAnns(dt.getAnnIds(imgIds=[key], catIds=[category]))
        found = [found[i] for i in np.argsort([-one["score"] for one in found], kind="mergesort")[:MAX_DETECTIONS]]
        outside = np.array([bool(one["iscrowd"]) or not area[0] <= one["area"] <= area[1] for one in truth], np.bool_)
        objects[index] = (~outside).sum()
        if not found:
            continue
        crowd = np.array([bool(one["iscrowd"]) for one in truth], np.bool_)
        overlaps = np.asarray(ious[key, category], np.float64).reshape(len(found), len(truth))
        hit, free = _greedy(overlaps, outside, crowd)
        beyond = np.array([not area[0] <= one["area"] <= area[1] for one in found])
        scores += [one["score"] for one in found]
        image += [index] * len(found)
        hits.append(hit & ~free)
        ignored.append(free | (~hit & beyond))
    if not scores:
        none = np.zeros((len(THRESHOLDS), 0), np.bool_)
        return ClassMatches(np.zeros(0, np.intp), none, none, objects)
    order = np.argsort(-np.array(scores), kind="mergesort")
    return ClassMatches(np.array(image)[order], np.concatenate(hits, 1)[:, order], np.concatenate(ignored, 1)[:, order], objects)


def _greedy(overlaps: Floats, ignored: Bools, crowd: Bools) -> tuple[Bools, Bools]:
    """Which detections [T, D] are matched, in order of score, and which of them with an ignored object.

    Each takes the free object that it overlaps most, the last one in a tie; any object that counts is preferred to an ignored one.
    """
    num_found, num_objects = overlaps.shape
    matched = np.zeros((len(THRESHOLDS), num_found), np.bool_)
    free = np.zeros_like(matched)
    order = np.argsort(ignored, kind="mergesort")
    for row, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(num_objects, np.bool_)
        for one in range(num_found):
            best, least = -1, min(threshold, 1 - 1e-10)
            for other in order:
                if taken[other] and not crowd[other]:
                    continue
                if best >= 0 and not ignored[best] and ignored[other]:
                    break
                if overlaps[one, other] >= least:
                    best, least = other, overlaps[one, other]
            if best >= 0:
                taken[best] = True
                matched[row, one], free[row, one] = True, bool(ignored[best])
    return matched, free
