"""At which of a level's positions objects are, from their boxes.

N boxes (x1, y1, x2, y2) in px of an image of a given (height, width), on a level of H x W cells. No mask carries gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int]
CHUNK = 64
"""Boxes whose masks are in memory at the same time."""


def levels_of(boxes: Tensor, learning: Sequence[int]) -> Tensor:
    """The position in `learning` of the level that each box [N, 4] belongs to: the finest up to a side of 112 px, then one per doubling.

    The side is the square root of the area. This is how feature pyramids pool regions from strides 4 and up (Lin et al., "Feature
    Pyramid Networks for Object Detection", CVPR 2017). An object of a level that does not learn belongs to the nearest that does.

    Args:
        learning: indices of the student's levels that learn, ascending.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1).sqrt()
    level = (side / 56 + 1e-6).log2().floor().clamp(min=0)
    return (level[:, None] - level.new_tensor(learning)).abs().argmin(dim=1)


def by_level(boxes: Sequence[Tensor], learning: Sequence[int]) -> list[list[Tensor]]:
    """For each level that learns, which boxes [N, 4] of each image belong to it; see `levels_of`."""
    levels = [levels_of(one, learning) for one in boxes]
    return [[one[level == index] for one, level in zip(boxes, levels, strict=True)] for index in range(len(learning))]


def in_cells(boxes: Tensor, size: Size, cells: Size) -> Tensor:
    """Boxes [N, 4] in cells of a level instead of px."""
    (height, width), (rows, columns) = size, cells
    return boxes * boxes.new_tensor([columns / width, rows / height] * 2)


def union(boxes: Tensor, cells: Size) -> Tensor:
    """Whether any of the boxes [N, 4], given in cells, covers a cell: [H, W] bool.

    Edges are rounded down and the last row and column are left out, but a box always covers at least one of each.
    """
    low, high = boxes.floor().split(2, dim=1)
    limits = low.new_tensor([cells[1] - 1, cells[0] - 1])
    low = torch.minimum(low.clamp(min=0), limits)
    columns, rows = (_span(low[:, axis], torch.maximum(high[:, axis], low[:, axis] + 1), cells[1 - axis]) for axis in (0, 1))
    return (rows.t().float() @ columns.float()) > 0


def inverse_areas(boxes: Tensor, cells: Size) -> Tensor:
    """One over the number of cells of the smallest of the boxes [N, 4], given in cells, that covers a cell, otherwise 0: [H, W].

    Edges are rounded outwards, and the last row and column are included.
    """
    largest = boxes.new_zeros(cells)
    low, high = boxes[:, :2].floor(), boxes[:, 2:].ceil() + 1
    share = 1 / (high - low).prod(dim=1)
    columns, rows = (_span(low[:, axis], high[:, axis], cells[1 - axis]) for axis in (0, 1))
    for some, more, weight in zip(rows.split(CHUNK), columns.split(CHUNK), share.split(CHUNK), strict=True):
        covered = (some[:, :, None] & more[:, None, :]) * weight[:, None, None]
        largest = torch.maximum(largest, covered.amax(dim=0)) if len(weight) else largest
    return largest


def _span(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Which of `count` cells are from `low` [N] up to but not at `high` [N]: [N, count] bool."""
    index = torch.arange(count, device=low.device)
    return (index >= low[:, None]) & (index < high[:, None])
