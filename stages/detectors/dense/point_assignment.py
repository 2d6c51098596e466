"""Which point of a pyramid's grids learns which object: the nearest one, at the level that the object's size belongs to.

Yang et al., "RepPoints: Point Set Representation for Object Detection", ICCV 2019, https://arxiv.org/abs/1904.11490, as in MMDetection.
"""

import torch
from torch import Tensor

_LEAST_PX = 1e-6
"""Width and height that a box without them counts as."""


def nearest_point(squares: Tensor, scale: float, boxes: Tensor) -> Tensor:
    """For each point the index of its object, or -1.

    An object belongs to the level whose `scale` strides are as long as the object, in the geometric mean of its sides, or up to half as
    long. A point that is the nearest of several objects learns the one whose center is nearest, measured in the object's own sides, and
    of equals the first.

    Args:
        squares: [N, 4] of all levels, in px; around each point, with sides of `scale` strides.
        boxes: [M, 4] in px.

    Returns:
        [N] int64
    """
    if not len(boxes):
        return torch.full((len(squares),), -1, dtype=torch.int64, device=squares.device)
    points, middles = (squares[:, :2] + squares[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=_LEAST_PX)
    levels = ((squares[:, 2] - squares[:, 0]) / scale).log2().round()
    distances = torch.linalg.vector_norm((points[:, None] - middles) / sides, dim=-1)
    distances = torch.where(levels[:, None] == _level(sides, scale, levels.unique()), distances, torch.inf)
    least, nearest = distances.min(dim=0)
    wanted = torch.full_like(distances, torch.inf).scatter(0, nearest[None], least[None])
    found, index = wanted.min(dim=1)
    return torch.where(found < torch.inf, index, torch.full_like(index, -1))


def _level(sides: Tensor, scale: float, levels: Tensor) -> Tensor:
    """Of the ascending levels, as powers of two, the one that each object belongs to."""
    power = ((sides / scale).log2().sum(dim=1) / 2).trunc()
    return levels[(torch.searchsorted(levels, power, right=True) - 1).clamp(min=0)]
