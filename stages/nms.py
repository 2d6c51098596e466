"""Exact greedy non-maximum suppression in dense operators, for graphs without data-dependent shapes.

Method: Zheng et al., "Enhancing Geometric Factors in Model Learning and Inference for Object Detection and Instance
Segmentation" (Cluster-NMS), IEEE Transactions on Cybernetics 2022, https://arxiv.org/abs/2005.03572. Departures: a mask of
equal classes instead of shifting the boxes of each class apart, which loses float32 precision; a fixed number of repeats,
with a flag that says whether the result had settled, in which case it equals plain greedy suppression.
"""

import torch
from torch import Tensor

REPEATS = 16


def pairwise_iou(boxes: Tensor) -> Tensor:
    """Intersection over union of all pairs.

    Args:
        boxes: [B, N, 4] as x1, y1, x2, y2.

    Returns:
        [B, N, N]; NaN between boxes of no area.
    """
    # One coordinate at a time: runtimes broadcast along a long last axis many times faster than along one of 2.
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    area = (x2 - x1) * (y2 - y1)
    width = torch.minimum(x2[:, :, None], x2[:, None, :]) - torch.maximum(x1[:, :, None], x1[:, None, :])
    height = torch.minimum(y2[:, :, None], y2[:, None, :]) - torch.maximum(y1[:, :, None], y1[:, None, :])
    overlap = width.clamp(min=0) * height.clamp(min=0)
    return overlap / (area[:, :, None] + area[:, None, :] - overlap)


def dense_nms(boxes: Tensor, labels: Tensor, iou_threshold: float, repeats: int = REPEATS) -> tuple[Tensor, Tensor]:
    """Which boxes greedy suppression within each class keeps.

    Args:
        boxes: [B, N, 4], by descending score.
        labels: [B, N]; only boxes of one label suppress one another.
        iou_threshold: a box goes when its IoU with a kept, better one is above this.

    Returns:
        keep [B, N] as 0 and 1 in the boxes' type, and converged [B] bool.
    """
    earlier = torch.ones(boxes.shape[1], boxes.shape[1], dtype=torch.bool, device=boxes.device).triu(1)
    over = (pairwise_iou(boxes) > iou_threshold) & (labels[:, :, None] == labels[:, None, :]) & earlier
    suppresses = over.to(boxes.dtype)
    keep = torch.ones_like(boxes[:, :1, 0]).expand(-1, boxes.shape[1])[:, None, :]
    before = keep
    for _ in range(repeats):
        before = keep
        keep = (keep @ suppresses < 0.5).to(boxes.dtype)
    return keep[:, 0], ((keep - before).abs().amax(dim=(1, 2)) < 0.5)


def select(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Suppress and keep the best, padded with score 0.

    Args:
        boxes: [B, N, 4]; scores: [B, N], 0 where there is none; labels: [B, N].

    Returns:
        boxes [B, K, 4], scores [B, K] descending, labels [B, K], converged [B]; K is at most N.
    """
    scores, order = torch.topk(scores, scores.shape[1], dim=1)
    boxes = torch.gather(boxes, 1, order[..., None].expand(-1, -1, 4))
    labels = torch.gather(labels, 1, order)
    keep, converged = dense_nms(boxes, labels, iou_threshold)
    scores, order = torch.topk(scores * keep, min(max_detections, scores.shape[1]), dim=1)
    boxes = torch.gather(boxes, 1, order[..., None].expand(-1, -1, 4))
    boxes = torch.where(scores[..., None] > 0, boxes, torch.zeros_like(boxes))
    return boxes, scores, torch.gather(labels, 1, order), converged
