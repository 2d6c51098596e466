"""COCO's twelve metrics, per-class precision and precision-recall curves.

faster-coco-eval computes them: it is written in C++, gives the same results as pycocotools, and needs only NumPy.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from deploy.contract import Accuracy, CocoNumbers
from deploy.prediction.masks import area, rectangle

Floats = NDArray[np.float64]
RECALLS = 101
_AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}
_LIMITS = {1: 0, 10: 1, 100: 2}


def evaluate(
    coco_gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]], split: str, classes: Sequence[str], *, masks: bool = False
) -> tuple[Accuracy, dict[str, Any]]:
    """Judge COCO results against a COCO ground truth.

    Args:
        coco_gt: images, annotations and categories; not modified.
        results: image_id, category_id, bbox, score of every image's detections.
        split: name of the split, for the result.
        classes: class names, as in the ground truth's categories, for `per_class` and the curves.
        masks: whether the results have `segmentation`, which is judged, too, if the ground truth has any.

    Returns:
        The accuracy, and the curves: `recall` (0 to 1 in 101 steps), then under `iou_50` (IoU 0.5) and `mean` (over IoU 0.5 to
        0.95) the precision at each recall, `overall` and `per_class`; null if there is no such object.
    """
    precision, recall, ids = _tables(coco_gt, results, "bbox")
    column = {str(category["name"]): ids.index(category["id"]) for category in coco_gt["categories"] if category["id"] in ids}
    every_class = {name: precision[:, :, [column[name]]] if name in column else precision[:, :, []] for name in classes}
    per_class = {name: _mean(table[..., _AREAS["all"], _LIMITS[100]]) for name, table in every_class.items()}
    numbers = _twelve(precision, recall)
    of_masks = _judge_masks(coco_gt, results) if masks else None
    accuracy = Accuracy(split=split, num_images=len(coco_gt["images"]), **numbers, per_class=per_class, segmentation=of_masks)
    return accuracy, {
        "recall": np.linspace(0, 1, RECALLS).tolist(),
        "iou_50": _curves(precision[:1], {name: table[:1] for name, table in every_class.items()}),
        "mean": _curves(precision, every_class),
    }


def _judge_masks(coco_gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> CocoNumbers | None:
    """The same metrics for the overlap of masks; None if the ground truth has no masks."""
    if not any(annotation.get("segmentation") for annotation in coco_gt["annotations"]):
        return None
    precision, recall, _ = _tables(coco_gt, results, "segm")
    return CocoNumbers(**_twelve(precision, recall))


def _tables(
    coco_gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"]
) -> tuple[Floats, Floats, list[int]]:
    """Precision [IoU, recall, class, area, limit] and recall [IoU, class, area, limit], -1 if undefined; and the class ids."""
    truth = COCO(sound(coco_gt), print_function=quiet)
    found = COCO(as_data_set(coco_gt, results, kind), print_function=quiet)
    judge = COCOeval_faster(truth, found, kind, print_function=quiet)
    judge.evaluate()
    judge.accumulate()
    return np.asarray(judge.eval["precision"]), np.asarray(judge.eval["recall"]), [int(i) for i in judge.params.catIds]


def sound(coco_gt: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with ids from 1, because COCO's matching takes id 0 for "unmatched", and with all fields that it requires."""
    annotations = [
        {
            "id": number,
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "segmentation": annotation.get("segmentation") or rectangle(annotation["bbox"]),
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }
        for number, annotation in enumerate(coco_gt["annotations"], start=1)
    ]
    return {"images": [dict(i) for i in coco_gt["images"]], "annotations": annotations, "categories": list(coco_gt["categories"])}


def as_data_set(coco_gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"]) -> dict[str, Any]:
    """The results as COCO's loadRes returns them, but also for an empty list. The area of a mask is its own, not its box's."""
    images = {image["id"] for image in coco_gt["images"]}
    annotations = []
    for number, result in enumerate(results, start=1):
        assert result["image_id"] in images, f"a detection in the unknown image {result['image_id']}"
        covered = result["bbox"][2] * result["bbox"][3] if kind == "bbox" else area(result["segmentation"])
        annotations.append({**result, "id": number, "area": covered, "iscrowd": 0})
    return {"images": [dict(i) for i in coco_gt["images"]], "annotations": annotations, "categories": list(coco_gt["categories"])}


def _twelve(precision: Floats, recall: Floats) -> dict[str, float | None]:
    def average(iou: slice, area: str) -> float | None:
        return _mean(precision[iou, :, :, _AREAS[area], _LIMITS[100]])

    def highest_recall(area: str, limit: int) -> float | None:
        return _mean(recall[:, :, _AREAS[area], _LIMITS[limit]])

    every = slice(None)
    return {
        "map": average(every, "all"),
        "map_50": average(slice(0, 1), "all"),
        "map_75": average(slice(5, 6), "all"),
        **{f"map_{area}": average(every, area) for area in ("small", "medium", "large")},
        **{f"mar_{limit}": highest_recall("all", limit) for limit in _LIMITS},
        **{f"mar_{area}": highest_recall(area, 100) for area in ("small", "medium", "large")},
    }


def _curves(overall: Floats, per_class: Mapping[str, Floats]) -> dict[str, Any]:
    return {"overall": _curve(overall), "per_class": {name: _curve(table) for name, table in per_class.items()}}


def _curve(precision: Floats) -> list[float] | None:
    """The mean over IoUs and classes at each recall."""
    table = precision[..., _AREAS["all"], _LIMITS[100]]
    points = [_mean(table[:, step]) for step in range(RECALLS)]
    return None if None in points else [round(point, 6) for point in points if point is not None]


def _mean(values: Floats) -> float | None:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None


def quiet(*words: object) -> None:
    """Discard the evaluation's progress messages."""
