"""COCO's twelve metrics, per-class precision and precision-recall curves.

hotcoco computes them: it is written in Rust, gives the same results as pycocotools in a fraction of its time, and needs only NumPy.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from hotcoco import COCO, COCOeval
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
    if not has_masks(coco_gt):
        return None
    precision, recall, _ = _tables(coco_gt, results, "segm")
    return CocoNumbers(**_twelve(precision, recall))


def has_masks(coco_gt: Mapping[str, Any]) -> bool:
    """Whether any object has a mask; the others' boxes stand for theirs."""
    return any(annotation.get("segmentation") for annotation in coco_gt["annotations"])


def _tables(
    coco_gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"]
) -> tuple[Floats, Floats, list[int]]:
    """Precision [IoU, recall, class, area, limit] and recall [IoU, class, area, limit], -1 if undefined; and the class ids."""
    truth = COCO(sound(coco_gt, masks=kind == "segm"))
    found = truth.load_res(_boxes(coco_gt, results) if kind == "bbox" else _masks(coco_gt, results))
    judge = COCOeval(truth, found, kind)
    judge.evaluate()
    judge.accumulate()
    assert judge.eval is not None, "accumulate fills it"
    return np.asarray(judge.eval["precision"]), np.asarray(judge.eval["recall"]), [int(i) for i in judge.params.cat_ids]


def _boxes(coco_gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Floats:
    """Boxes [N, 7] as COCO's loadRes takes them: image, x, y, width, height, score, category."""
    _refuse_unknown(coco_gt, results)
    found = np.empty((len(results), 7))
    for row, result in zip(found, results, strict=True):
        row[:] = (result["image_id"], *result["bbox"], result["score"], result["category_id"])
    return found


def _masks(coco_gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The results without their boxes: loadRes would take the area of a mask from its box."""
    _refuse_unknown(coco_gt, results)
    return [{key: value for key, value in result.items() if key != "bbox"} for result in results]


def _refuse_unknown(coco_gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    images = {image["id"] for image in coco_gt["images"]}
    for result in results:
        assert result["image_id"] in images, f"a detection in the unknown image {result['image_id']}"


def sound(coco_gt: Mapping[str, Any], *, masks: bool = True) -> dict[str, Any]:
    """A copy with ids from 1, because COCO's matching takes id 0 for "unmatched", and with all fields that it requires.

    Args:
        masks: whether masks are required, too; an object without one gets its box instead.
    """
    annotations = [
        {
            "id": number,
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            **({"segmentation": annotation.get("segmentation") or rectangle(annotation["bbox"])} if masks else {}),
            "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
            "iscrowd": int(annotation.get("iscrowd", 0)),
        }
        for number, annotation in enumerate(coco_gt["annotations"], start=1)
    ]
    images = [{**image, **({"file_name": _in_utf8(image["file_name"])} if "file_name" in image else {})} for image in coco_gt["images"]]
    return {"images": images, "annotations": annotations, "categories": list(coco_gt["categories"])}


def _in_utf8(name: str) -> str:
    """The name with escapes in place of bytes that are not UTF-8, which the library does not take."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def as_data_set(coco_gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Literal["bbox", "segm"]) -> dict[str, Any]:
    """The results as COCO's loadRes returns them, but also for an empty list. The area of a mask is its own, not its box's."""
    _refuse_unknown(coco_gt, results)
    annotations = []
    for number, result in enumerate(results, start=1):
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
