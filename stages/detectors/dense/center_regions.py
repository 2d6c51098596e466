"""Which positions learn which object, by the objects' centers, and at which level of the pyramid, by the loss there.

Zhu et al., "Feature Selective Anchor-Free Module for Single-Shot Object Detection", CVPR 2019, https://arxiv.org/abs/1903.00621.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

_LEAST_SHARE = 0.01
"""Share of a position's square that the object's core covers at least."""

_NOWHERE = 1e6
"""Loss of an object at a level where no position learns it."""


def in_core(squares: Tensor, boxes: Tensor, labels: Tensor, core: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """For each position the index of its object, or -1, and the classes that it is not to learn either way.

    A position learns an object if its center is in it and its square touches the object's core: the box, `core` times as large. Of
    several objects, it learns the smallest; the classes of all others whose core its square touches are ignored there, and if that is
    the class of its own object, it learns none.

    Args:
        squares: [N, 4] in px; boxes: [M, 4] in px; labels: [M].

    Returns:
        [N] int64, and [N, num_classes] bool
    """
    if not len(boxes):
        nobody = torch.full((len(squares),), -1, dtype=torch.int64, device=squares.device)
        return nobody, torch.zeros(len(squares), num_classes, dtype=torch.bool, device=squares.device)
    center, middle = (squares[:, None, :2] + squares[:, None, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * core
    touches = _share(squares, torch.cat((middle - half, middle + half), dim=1)) > _LEAST_SHARE
    inside = ((center > boxes[:, :2]) & (center < boxes[:, 2:])).all(dim=-1)
    rank = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).argsort(descending=True, stable=True).argsort()
    highest, index = torch.where(touches & inside, rank, torch.full_like(rank, -1)).max(dim=1)
    own = one_hot(index, len(boxes)).bool() & (highest >= 0)[:, None]
    ignored = (touches & ~own).float() @ one_hot(labels, num_classes).float() > 0
    taken = (highest >= 0) & ~ignored.gather(1, labels[index][:, None])[:, 0]
    return torch.where(taken, index, torch.full_like(index, -1)), ignored


def _share(squares: Tensor, boxes: Tensor) -> Tensor:
    """The share of each square that each box covers, [N, M]."""
    extent = torch.minimum(squares[:, None, 2:], boxes[:, 2:]) - torch.maximum(squares[:, None, :2], boxes[:, :2])
    return extent.clamp(min=0).prod(dim=-1) / (squares[:, 2:] - squares[:, :2]).prod(dim=-1)[:, None]


def at_their_best_level(losses: Tensor, objects: Tensor, levels: Tensor, shape: Sequence[int]) -> Tensor:
    """Of the positions that learn objects, those at the level where their object's mean loss is lowest.

    Args:
        losses, objects, levels: [P], what each position's loss is, which of all objects it learns, and its level.
        shape: the number of levels and that of objects.

    Returns:
        [P] bool
    """
    num_levels, num_objects = shape
    place = levels * num_objects + objects
    sums, counts = (
        torch.zeros(num_levels * num_objects, device=losses.device).index_add(0, place, values)
        for values in (losses, torch.ones_like(losses))
    )
    means = torch.where(counts > 0, sums / counts.clamp(min=1), torch.full_like(sums, _NOWHERE))
    return means.reshape(num_levels, num_objects).argmin(dim=0)[objects] == levels if len(losses) else levels == objects
