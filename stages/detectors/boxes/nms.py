"""Exact greedy non-maximum suppression in dense operators, for graphs without data-dependent shapes.

Method: Zheng et al., "Enhancing Geometric Factors in Model Learning and Inference for Object Detection and Instance
Segmentation" (Cluster-NMS), IEEE Transactions on Cybernetics 2022, https://arxiv.org/abs/2005.03572. Departures: classes are
kept apart by a mask or in blocks of their own instead of shifting their boxes apart, which loses float32 precision; boxes are
settled BLOCK at a time, best first, so that not all pairs are in memory at the same time, and a chain of boxes, each suppressing
the next, need not settle in one go; each block has a fixed number of repeats, and a flag reports whether the result has
converged, in which case it equals plain greedy suppression.

Equal scores keep their order, in torch and in ONNX, whose TopK guarantees it.
"""

import math

import torch
from torch import Tensor

REPEATS = 24
"""Length of the longest chain of boxes, each suppressing the next, that settles. Measured at 1,000 boxes, thresholds 0.3 to 0.7 and
blocks of 256: 9 on crowds and clusters; on a grid's anchors 12 with noisy scores, 20 with scores that fall evenly from a point, 38 from
an edge."""
BLOCK = 512
"""Maximum number of boxes that are settled together."""
LEAST = 32
"""Minimum number, if there are more boxes: each block is about eighty operators in the graph."""
TOGETHER = 2000
"""Maximum number of boxes of all classes in one list: what heads with one list per class pass to suppression across classes, the best."""
PAIRS = 1_000_000
"""Maximum number of pairs of boxes per image at a time, as far as LEAST allows: this many still fit a processor's cache."""


def best(scores: Tensor, num_best: int) -> tuple[Tensor, Tensor]:
    """The highest scores along the last axis, descending, and their indices; among equal scores the lower index comes first."""
    if torch.compiler.is_exporting():  # ONNX's TopK keeps the order of equal scores; torch's does not
        return torch.topk(scores, num_best, dim=-1)
    values, order = torch.sort(scores, dim=-1, descending=True, stable=True)
    return values[..., :num_best], order[..., :num_best]


def pairwise_iou(boxes: Tensor, others: Tensor | None = None) -> Tensor:
    """Intersection over union of all pairs.

    Args:
        boxes: [..., N, 4] as x1, y1, x2, y2.
        others: [..., M, 4]; None compares the boxes with each other.

    Returns:
        [..., N, M]; 0 between boxes without area.
    """
    # One coordinate at a time: runtimes broadcast along a long last axis many times faster than along one of 2.
    x1, y1, x2, y2 = (corner[..., :, None] for corner in boxes.unbind(dim=-1))
    left, top, right, bottom = (corner[..., None, :] for corner in (boxes if others is None else others).unbind(dim=-1))
    width = torch.minimum(x2, right) - torch.maximum(x1, left)
    height = torch.minimum(y2, bottom) - torch.maximum(y1, top)
    overlap = width.clamp(min=0) * height.clamp(min=0)
    return overlap / (_area(x1, y1, x2, y2) + _area(left, top, right, bottom) - overlap)


def _area(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:
    """Boxes' areas in square px, 1 for those without area: their overlaps are 0, and 0 / 0 is not the same everywhere."""
    area = (x2 - x1) * (y2 - y1)
    return torch.where(area == 0, torch.ones_like(area), area)


def dense_nms(
    boxes: Tensor, labels: Tensor | None, iou_threshold: float, repeats: int = REPEATS, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """Which boxes greedy suppression keeps.

    Args:
        boxes: [..., N, 4], by descending score; the lists along the leading axes are independent of one another.
        labels: [..., N]; only boxes of the same label suppress one another; None: all do.
        iou_threshold: a box is suppressed if its IoU with a kept, better one is above this.
        repeats: length of the longest chain of boxes, each suppressing the next, that settles within a block.
        block: number of boxes that are settled together before they suppress those after them; None: as BLOCK and PAIRS allow.

    Returns:
        keep [..., N] as 0 and 1 in the boxes' type, and converged [...] bool.
    """
    num_boxes = boxes.shape[-2]
    size = _block(num_boxes, math.prod(boxes.shape[1:-2])) if block is None else min(block, num_boxes)
    later = torch.ones(size, size, dtype=boxes.dtype, device=boxes.device).triu(1)
    open_ = torch.ones_like(boxes[..., None, :, 0])
    kept: list[Tensor] = []
    settled: list[Tensor] = []
    for start in range(0, num_boxes, size):
        size = min(size, num_boxes - start)
        over = pairwise_iou(boxes[..., start : start + size, :], boxes[..., start:, :]) > iou_threshold
        if labels is not None:
            over = over & (labels[..., start : start + size, None] == labels[..., None, start:])
        suppresses = over.to(boxes.dtype)
        keep, stable = _settle(open_[..., :size], suppresses[..., :size] * later[:size, :size], repeats)
        kept.append(keep[..., 0, :])
        settled.append(stable)
        if start + size < num_boxes:
            open_ = torch.relu(open_[..., size:] - keep @ suppresses[..., size:])
    return torch.cat(kept, dim=-1), torch.stack(settled, dim=-1).all(dim=-1)


def _block(num_boxes: int, num_lists: int) -> int:
    """The size of even blocks, for `num_boxes` boxes in each of `num_lists` lists per image."""
    most = max(LEAST, min(BLOCK, PAIRS // (num_boxes * num_lists)))
    return math.ceil(num_boxes / math.ceil(num_boxes / most))


def _settle(open_: Tensor, suppresses: Tensor, repeats: int) -> tuple[Tensor, Tensor]:
    """Which of the open boxes [..., 1, N] stay when each kept one suppresses [..., N, N] later ones, and whether that is final."""
    keep = before = open_
    for _ in range(repeats):
        before = keep
        keep = torch.relu(open_ - keep @ suppresses)  # whole numbers: 1 for an open box that no kept box suppresses
    return keep, (keep - before).abs().amax(dim=(-2, -1)) < 0.5


def select(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int, *, agnostic: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Suppress within each label and keep the best, padded with score 0; all boxes in one list.

    Args:
        boxes: [B, N, 4]; scores: [B, N], 0 where there is no box; labels: [B, N].
        agnostic: whether a box also suppresses boxes of other labels.

    Returns:
        boxes [B, K, 4], scores [B, K] descending, labels [B, K], converged [B]; K is at most N.
    """
    scores, order = best(scores, scores.shape[1])
    boxes = _present(torch.gather(boxes, 1, order[..., None].expand(-1, -1, 4)), scores)
    labels = torch.gather(labels, 1, order)
    keep, converged = dense_nms(boxes, None if agnostic else labels, iou_threshold)
    return *_answer(boxes, scores * keep, labels, max_detections), converged


def select_per_class(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_detections: int,
    candidates: int | None = None,
    *,
    agnostic: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Suppress within each class and keep the best of all, padded with score 0; each class in a block of its own.

    Args:
        boxes: [B, C, N, 4], or [B, N, 4] if the classes share them.
        scores: [B, C, N], 0 where there is no box.
        candidates: number of boxes per class that are considered, the best ones; None: all.
        agnostic: whether a box also suppresses boxes of other classes; TOGETHER boxes of all classes are considered, the best ones.

    Returns:
        boxes [B, K, 4], scores [B, K] descending (equal ones by class), labels [B, K] int64, converged [B]; K is at most
        C times the candidates.
    """
    batch, num_classes, num_boxes = scores.shape
    size = num_boxes if candidates is None else min(candidates, num_boxes)
    scores, order = best(scores, size)
    if boxes.dim() == 3:
        boxes = torch.gather(boxes, 1, order.flatten(1)[..., None].expand(-1, -1, 4)).unflatten(1, (num_classes, size))
    else:
        boxes = torch.gather(boxes, 2, order[..., None].expand(-1, -1, -1, 4))
    labels = torch.arange(num_classes, device=scores.device)[:, None].expand(-1, size).flatten().expand(batch, -1)
    if agnostic:
        boxes, scores, labels = _answer(boxes.flatten(1, 2), scores.flatten(1), labels, TOGETHER)
        return select(boxes, scores, labels, iou_threshold, max_detections, agnostic=True)
    boxes = _present(boxes, scores)
    keep, converged = dense_nms(boxes, None, iou_threshold)
    kept = _answer(boxes.flatten(1, 2), (scores * keep).flatten(1), labels, max_detections)
    return *kept, converged.all(dim=1)


def _present(boxes: Tensor, scores: Tensor) -> Tensor:
    """The boxes, with those without a score shrunk to nothing: they neither suppress others nor delay convergence."""
    return torch.where(scores[..., None] > 0, boxes, torch.zeros_like(boxes))


def _answer(boxes: Tensor, scores: Tensor, labels: Tensor, max_detections: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes [B, K, 4] out of boxes [B, N, 4], their scores and labels; zeros where the score is 0."""
    scores, order = best(scores, min(max_detections, scores.shape[1]))
    boxes = torch.gather(boxes, 1, order[..., None].expand(-1, -1, 4))
    return _present(boxes, scores), scores, torch.gather(labels, 1, order)
