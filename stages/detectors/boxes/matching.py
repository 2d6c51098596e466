"""Which object each box learns, by their overlaps.

As in mmdet: a box learns the object that it overlaps most, if it overlaps it enough. An object that no box overlaps enough may claim the
boxes that overlap it most, whichever object they would learn otherwise; later objects take boxes from earlier ones. Departure: an object
that no box overlaps claims none; in mmdet, with claims from an overlap of 0 on, it claims all that do not overlap it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stages.detectors.boxes.nms import pairwise_iou

BACKGROUND, IGNORED = -1, -2


@dataclass(frozen=True)
class MatchRule:
    """From which overlap on (IoU, 0 to 1) a box learns its object, and below which it learns the background.

    claim: from which overlap on, above 0, an object claims the boxes that overlap it most; None: objects claim none.
    """

    object_from: float | Tensor
    background_below: float | Tensor
    claim: float | None = None


class Assignment(NamedTuple):
    """objects: [N] int64, the object that each box learns, BACKGROUND or IGNORED; overlaps: [N], each box's largest IoU."""

    objects: Tensor
    overlaps: Tensor


def assign(boxes: Tensor, objects: Tensor, rule: MatchRule) -> Assignment:
    """Assign boxes [N, 4] to objects' boxes [M, 4]; without objects, all boxes learn the background."""
    if not len(objects) or not len(boxes):
        return Assignment(torch.full((len(boxes),), BACKGROUND, device=boxes.device), boxes.new_zeros(len(boxes)))
    overlaps = pairwise_iou(objects, boxes)
    largest, nearest = overlaps.max(dim=0)
    found = torch.full_like(nearest, IGNORED)
    found[largest < rule.background_below] = BACKGROUND
    found = torch.where(largest >= rule.object_from, nearest, found)
    if rule.claim is not None:
        best = overlaps.amax(dim=1, keepdim=True)
        claims = (overlaps == best) & (best >= rule.claim) & (best > 0)
        order = torch.arange(len(objects), device=boxes.device)[:, None]
        claimed = torch.where(claims, order, torch.full_like(order, IGNORED)).amax(dim=0)
        found = torch.where(claimed >= 0, claimed, found)
    return Assignment(found, largest)
