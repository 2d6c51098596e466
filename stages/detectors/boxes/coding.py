"""Boxes from the deltas that anchor-based heads predict, as torchvision's BoxCoder defines them, for whole batches.

Girshick et al., "Rich feature hierarchies for accurate object detection and semantic segmentation", CVPR 2014,
https://arxiv.org/abs/1311.2524, appendix C. Departure: torchvision's limit on how far a box grows.
"""

import math

import torch
from torch import Tensor

MAX_GROWTH = math.log(1000.0 / 16)


def decode(
    deltas: Tensor, boxes: Tensor, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0), *, limit_shrinking: bool = False
) -> Tensor:
    """Move and stretch boxes.

    Args:
        deltas: [..., 4] as dx, dy, dw, dh, times `weights`.
        boxes: [..., 4] as x1, y1, x2, y2, of a shape that broadcasts with the deltas'.
        limit_shrinking: whether a box may not shrink by more than it may grow, as in mmdet; torchvision limits growth only.

    Returns:
        [..., 4] as x1, y1, x2, y2, not clipped.
    """
    # One coordinate at a time and in torchvision's order of operations, so that float32 results are identical.
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    width, height = x2 - x1, y2 - y1
    center_x, center_y = x1 + 0.5 * width, y1 + 0.5 * height
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(dim=-1), weights, strict=True))
    least = -MAX_GROWTH if limit_shrinking else None
    dw, dh = dw.clamp(min=least, max=MAX_GROWTH), dh.clamp(min=least, max=MAX_GROWTH)
    middle_x, middle_y = dx * width + center_x, dy * height + center_y
    half_width, half_height = 0.5 * (torch.exp(dw) * width), 0.5 * (torch.exp(dh) * height)
    return torch.stack((middle_x - half_width, middle_y - half_height, middle_x + half_width, middle_y + half_height), dim=-1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes [..., 4] clipped to an image of height x width px."""
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limit)


def encode(boxes: Tensor, objects: Tensor, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The deltas [N, 4] that `decode` turns boxes [N, 4] with into the objects' boxes [N, 4]; all have a width and a height."""
    sizes, wanted = boxes[:, 2:] - boxes[:, :2], objects[:, 2:] - objects[:, :2]
    moves = ((objects[:, :2] + objects[:, 2:]) - (boxes[:, :2] + boxes[:, 2:])) * 0.5 / sizes
    return torch.cat((moves, torch.log(wanted / sizes)), dim=1) * boxes.new_tensor(weights)
