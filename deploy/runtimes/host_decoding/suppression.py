"""Greedy non-maximum suppression in NumPy, with the decisions of the graphs' own."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_AT_ONCE = 128
"""Boxes that are compared with one another in one step: calls of NumPy cost more than the comparisons that one box at a time would save."""


def suppress(boxes: Floats, scores: Floats, labels: NDArray[np.int64] | None, iou_threshold: float, most: int) -> NDArray[np.int64]:
    """The indices of at most `most` boxes that are kept, by descending score; of equal scores the lower index comes first.

    Args:
        labels: only boxes of the same label suppress one another; None: all do.
    """
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(0, np.int64)
    while len(order) and len(kept) < most:
        block, order = order[:_AT_ONCE], order[_AT_ONCE:]
        found = block[_greedy(_over(boxes, labels, block, block, iou_threshold), most - len(kept))]
        kept = np.concatenate([kept, found])
        order = order[~_over(boxes, labels, found, order, iou_threshold).any(axis=0)]
    return kept


def _greedy(over: NDArray[np.bool_], most: int) -> list[int]:
    """The first boxes that no kept one before them overlaps; `over` [N, N] tells who overlaps whom."""
    found: list[int] = []
    dropped = np.zeros(len(over), np.bool_)
    for index in range(len(over)):
        if not dropped[index]:
            found.append(index)
            if len(found) == most:
                break
            dropped |= over[index]
    return found


def _over(
    boxes: Floats, labels: NDArray[np.int64] | None, ones: NDArray[np.int64], others: NDArray[np.int64], iou_threshold: float
) -> NDArray[np.bool_]:
    """Which of the ones suppress which of the others, [ones, others]."""
    over: NDArray[np.bool_] = overlaps(boxes[ones], boxes[others]) > np.float32(iou_threshold)
    return over if labels is None else over & (labels[ones][:, None] == labels[others])


def overlaps(ones: Floats, others: Floats) -> Floats:
    """Intersection over union [N, M] of boxes [N, 4] with others [M, 4]; 0 between boxes without area."""
    own, their = ones.T[:, :, None], np.ascontiguousarray(others.T)
    with np.errstate(invalid="ignore", divide="ignore"):  # a box whose sides are exchanged overlaps nothing, as in the graph
        width = np.minimum(own[2], their[2]) - np.maximum(own[0], their[0])
        height = np.minimum(own[3], their[3]) - np.maximum(own[1], their[1])
        shared = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
        found: Floats = shared / (_area(ones)[:, None] + _area(others) - shared)
    return found


def _area(boxes: Floats) -> Floats:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.where(area == 0, np.float32(1), area)
