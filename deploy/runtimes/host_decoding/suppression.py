"""Greedy non-maximum suppression in NumPy, with the decisions of the graphs' own."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def suppress(boxes: Floats, scores: Floats, labels: NDArray[np.int64] | None, iou_threshold: float, most: int) -> NDArray[np.int64]:
    """The indices of at most `most` boxes that are kept, by descending score; of equal scores the lower index comes first.

    Args:
        labels: only boxes of the same label suppress one another; None: all do.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order) and len(kept) < most:
        first, order = int(order[0]), order[1:]
        kept.append(first)
        over = overlaps(boxes[first], boxes[order]) > np.float32(iou_threshold)
        order = order[~(over if labels is None else over & (labels[order] == labels[first]))]
    return np.array(kept, np.int64)


def overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union of a box [4] with others [N, 4]; 0 between boxes without area."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.maximum(high - low, np.float32(0)).prod(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a box whose sides are exchanged overlaps nothing, as in the graph
        found: Floats = shared / (_area(box[None]) + _area(others) - shared)
    return found


def _area(boxes: Floats) -> Floats:
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.where(area == 0, np.float32(1), area)
