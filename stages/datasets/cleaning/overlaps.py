"""Whether objects of different classes overlap so much that suppression across classes would lose one of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.datasets.cleaning.clean import read_box
from stages.datasets.cleaning.sizes import Box


def overlaps(coco: Mapping[str, Any], iou_threshold: float) -> bool:
    """Whether two objects of different classes in one image have an IoU above the threshold; crowds and invalid boxes do not count.

    If none have, `export.nms: agnostic` loses no object that `per_class` would find.
    """
    by_image: dict[Any, list[tuple[int, Box]]] = {}
    for row in coco["annotations"]:
        box = read_box(row.get("bbox"))
        if box is not None and row.get("iscrowd") not in (1, True):
            by_image.setdefault(row["image_id"], []).append((row["category_id"], box))
    return any(_overlap(objects, iou_threshold) for objects in by_image.values())


def _overlap(objects: list[tuple[int, Box]], iou_threshold: float) -> bool:
    labels = np.array([label for label, _ in objects])
    boxes = np.array([box for _, box in objects])
    areas = boxes[:, 2] * boxes[:, 3]
    for row in range(len(boxes) - 1):
        others = np.flatnonzero(labels[row + 1 :] != labels[row]) + row + 1
        both = _intersections(boxes[row], boxes[others])
        if (both > iou_threshold * (areas[row] + areas[others] - both)).any():
            return True
    return False


def _intersections(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square px that a box [4] (x, y, width, height) shares with each of others [N, 4]."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared: NDArray[np.float64] = np.maximum(high - low, 0).prod(axis=1)
    return shared
