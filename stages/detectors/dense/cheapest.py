"""Which positions learn which object: those that predict it most cheaply, as many as its best overlaps add up to.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021", https://arxiv.org/abs/2107.08430 (SimOTA), after Ge et al., "OTA: Optimal Transport
Assignment for Object Detection", CVPR 2021, https://arxiv.org/abs/2103.14259. As the published weights were trained, and as in mmdet: a
candidate's center is in an object or near an object's center; the authors' code has become stricter since.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stages.detectors.boxes.nms import pairwise_iou

_NEAR = 2.5
"""Distance from an object's center, in strides along each axis."""

_BEST = 10
"""Number of overlaps that are added up."""

_OVERLAP_WEIGHT, _NOT_BOTH, _LEAST = 3.0, 1e5, 1e-7


class Learners(NamedTuple):
    """objects: [N] int64, the index of each position's object, or -1; overlaps: [N], IoU of its predicted box with that object's."""

    objects: Tensor
    overlaps: Tensor


@torch.no_grad()
def cheapest(squares: Tensor, predicted: Tensor, probabilities: Tensor, boxes: Tensor, labels: Tensor) -> Learners:
    """Assign the objects of an image to positions.

    Args:
        squares: [N, 4], around the top left corner of each position's cell, as wide as its stride; in px.
        predicted: [N, 4], the positions' boxes in px; probabilities: [N, K], of their classes.
        boxes: [M, 4] in px; labels: [M].
    """
    objects, overlaps = torch.full((len(squares),), -1, device=squares.device), squares.new_zeros(len(squares))
    if not len(boxes):
        return Learners(objects, overlaps)
    inside, near = _candidates(squares, boxes)
    place = torch.where((inside | near).any(dim=1))[0]
    if not len(place):
        return Learners(objects, overlaps)
    shared = pairwise_iou(predicted[place], boxes)
    costs = _class_costs(probabilities[place], labels) + _OVERLAP_WEIGHT * -(shared + _LEAST).log()
    taken = _taken(costs + _NOT_BOTH * ~(inside & near)[place], shared)
    most, index = taken.max(dim=1)
    objects[place] = torch.where(most, index, torch.full_like(index, -1))
    overlaps[place] = torch.where(most, shared.gather(1, index[:, None])[:, 0], torch.zeros_like(shared[:, 0]))
    return Learners(objects, overlaps)


def _candidates(squares: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the center of each position's cell is in each object, and whether it is near its center; [N, M] bool."""
    center, reach = squares[:, None, 2:], (squares[:, None, 2:] - squares[:, None, :2]) * _NEAR
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    within = [(center - low > 0) & (high - center > 0) for low, high in ((boxes[:, :2], boxes[:, 2:]), (middle - reach, middle + reach))]
    return within[0].all(dim=-1), within[1].all(dim=-1)


def _class_costs(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each position's probabilities with each object's class, summed over classes; [N, M]."""
    present, absent = (values.log().clamp(min=-100) for values in (probabilities, 1 - probabilities))
    return -(present[:, labels] + absent.sum(dim=1, keepdim=True) - absent[:, labels])


def _taken(costs: Tensor, overlaps: Tensor) -> Tensor:
    """Which positions each object takes, [N, M] bool: a position that several would take goes to the one for which it costs least."""
    most = min(_BEST, len(costs))
    counts = overlaps.topk(most, dim=0).values.sum(dim=0).int().clamp(min=1)
    order = costs.topk(most, dim=0, largest=False).indices
    chosen = torch.arange(most, device=costs.device)[:, None] < counts
    taken = torch.zeros_like(costs, dtype=torch.bool).scatter(0, order, chosen)
    only = one_hot(costs.argmin(dim=1), costs.shape[1]).bool()
    return torch.where(taken.sum(dim=1, keepdim=True) > 1, only, taken)
