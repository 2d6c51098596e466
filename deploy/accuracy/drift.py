"""Drift between the detections of two networks that should detect the same."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.contract import Frozen
from deploy.prediction.detections import corners

Floats = NDArray[np.float64]
Detection = Mapping[str, Any]
"""One of COCO's results: image_id, category_id, bbox (x, y, width, height) in px, score."""

SAME_IOU = 0.5
"""Minimum IoU at which two boxes of one class may belong to the same object."""


class Drift(Frozen):
    """Movement of box corners, in px, and change of scores between detections matched one to one; null if none match.

    `matched` is the fraction of the longer list that found a match, 1 if both lists are empty.
    """

    matched: float
    box_mean_px: float | None
    box_max_px: float | None
    score_mean: float | None
    score_max: float | None


def drift(before: Sequence[Detection], after: Sequence[Detection]) -> Drift:
    """Match the detections of each image and class, starting with the largest overlap."""
    groups = [_grouped(before), _grouped(after)]
    moves: list[float] = []
    changes: list[float] = []
    for key in groups[0].keys() & groups[1].keys():
        (boxes, scores), (other_boxes, other_scores) = (group[key] for group in groups)
        for row, column in pairs(overlaps(boxes, other_boxes)):
            moves.append(float(np.abs(boxes[row] - other_boxes[column]).max()))
            changes.append(abs(float(scores[row] - other_scores[column])))
    longer = max(len(before), len(after))
    if not moves:
        return Drift(matched=0.0 if longer else 1.0, box_mean_px=None, box_max_px=None, score_mean=None, score_max=None)
    return Drift(
        matched=len(moves) / longer,
        box_mean_px=sum(moves) / len(moves),
        box_max_px=max(moves),
        score_mean=sum(changes) / len(changes),
        score_max=max(changes),
    )


def overlaps(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union [N, M] of boxes [N, 4] and [M, 4] as x1, y1, x2, y2; 0 if both have no area."""
    low, high = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Floats = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (boxes, others)]
    joined = areas[0][:, None] + areas[1][None] - shared
    found: Floats = np.divide(shared, joined, out=np.zeros_like(shared), where=joined > 0)
    return found


def pairs(overlap: Floats) -> list[tuple[int, int]]:
    """Rows and columns matched one to one, the largest overlap first, down to SAME_IOU."""
    left = overlap.copy()
    found: list[tuple[int, int]] = []
    while left.size and left.max() >= SAME_IOU:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        left[row, :], left[:, column] = -1, -1
        found.append((int(row), int(column)))
    return found


def _grouped(detections: Sequence[Detection]) -> dict[tuple[int, int], tuple[Floats, Floats]]:
    """Boxes as corners and scores by image and class."""
    rows: dict[tuple[int, int], list[Detection]] = defaultdict(list)
    for one in detections:
        rows[one["image_id"], one["category_id"]].append(one)
    found = {}
    for key, group in rows.items():
        boxes = np.array([corners(one["bbox"]) for one in group], np.float64)
        found[key] = boxes, np.array([one["score"] for one in group], np.float64)
    return found
