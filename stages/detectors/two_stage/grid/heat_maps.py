"""Boxes as nine points, 3 x 3 over the object, each with a map of where it is.

Lu et al., "Grid R-CNN Plus: Faster and Better", 2019, https://arxiv.org/abs/1906.05688, as in mmdet: the points are numbered column by
column. A region is seen twice as wide and high as it is, as 56 x 56 cells; a point's map covers the half of them, in each direction, in
which it can be: the first, the middle or the last. Departure: a point is where its map has the largest logit; mmdet looks for the largest
sigmoid, in which float32 no longer tells large logits apart, and takes the first of several.
"""

import torch
from torch import Tensor

SIDE = 3
"""Points along each side."""
CELLS = 28
"""Of a point's map along each side."""
_ALL_CELLS = 2 * CELLS
_FIRST_CELLS = (0, CELLS // 2, CELLS)
"""The first cell of a map, by the point's column, or by its row."""
_LEAST = 1e-20
_SMALLEST_PX = 3.0
"""Regions that are seen no larger than this have points nowhere."""


def draw(regions: Tensor, boxes: Tensor) -> Tensor:
    """Maps [N, 9, 28, 28], 1 in the cells that contain the objects' points and in the four next to each, otherwise 0.

    Args:
        regions: [N, 4] in px; boxes: [N, 4], their objects'.
    """
    corner, extent = _seen(regions)
    share = torch.tensor([1.0, 0.5, 0.0], device=boxes.device)
    points = share * boxes[:, :2, None] + (1 - share) * boxes[:, 2:, None]  # [N, 2, 3]: x, and y, of columns, and of rows
    cells = ((points - corner[..., None]) / extent[..., None] * _ALL_CELLS).nan_to_num().trunc()
    places = torch.arange(CELLS, device=boxes.device) + torch.tensor(_FIRST_CELLS, device=boxes.device)[:, None]
    away = (places - cells[..., None]).square()  # [N, 2, 3, 28]
    near = away[:, 0, :, None, None, :] + away[:, 1, None, :, :, None] <= 1
    large = (extent > _SMALLEST_PX).all(dim=1)
    return (near & large[:, None, None, None, None]).flatten(1, 2).to(boxes.dtype)


def read(maps: Tensor, regions: Tensor) -> Tensor:
    """Boxes [..., 4] in px, not clipped: each side is the mean of its three points, weighted by their probabilities.

    Args:
        maps: logits [..., 9, 28, 28]; regions: [..., 4] in px.
    """
    low, extent = regions[..., :2], regions[..., 2:] - regions[..., :2]
    logits, place = maps.flatten(-2).max(dim=-1)
    row = torch.div(place, CELLS, rounding_mode="floor")
    first = torch.tensor(_FIRST_CELLS, device=maps.device)
    column = place - row * CELLS + first.repeat_interleave(SIDE)
    cells = torch.stack((column, row + first.repeat(SIDE)), dim=-2).to(maps.dtype)
    # what is seen is twice as wide as the region, and so are its cells
    places = (cells + 0.5) / CELLS * extent[..., None] + (low - extent / 2)[..., None]
    x, y = (one.unflatten(-1, (SIDE, SIDE)) for one in places.unbind(dim=-2))
    weights = torch.sigmoid(logits).clamp(min=_LEAST).unflatten(-1, (SIDE, SIDE))
    sides = [side for index in (0, -1) for side in ((x, weights, index), (y.transpose(-1, -2), weights.transpose(-1, -2), index))]
    return torch.stack([_mean(values[..., index, :], own[..., index, :]) for values, own, index in sides], dim=-1)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum(dim=-1) / weights.sum(dim=-1)


def _seen(regions: Tensor) -> tuple[Tensor, Tensor]:
    """The top left corner [N, 2] and the extent [N, 2] of what is seen of regions [N, 4]."""
    low, high = regions[:, :2], regions[:, 2:]
    half = (high - low) / 2
    return low - half, (high + half) - (low - half)
