"""Which rows of heads learn an object."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.detectors import Target
from stages.detectors.boxes.nms import pairwise_iou
from stages.detectors.dense.assignment import enough_overlap, nearest_above_average
from stages.losses.heads.rows import LevelRows
from stages.processes import shared_count

NEAREST = 9
"""Candidates of each level for an object, as published (Zhang et al., ATSS, CVPR 2020)."""


@dataclass(frozen=True)
class LearnedRows:
    """Which rows of all levels together learn an object: where [B, N] bool, objects [B, N, 4] their boxes, 0 elsewhere."""

    where: Tensor
    objects: Tensor

    @property
    def count(self) -> Tensor:
        """Their number, the mean over processes, but at least 1 in all."""
        return shared_count(self.where.sum())


@torch.no_grad()
def learned(levels: Sequence[LevelRows], targets: Sequence[Target]) -> LearnedRows:
    """As ATSS assigns objects to the student's anchors, whatever the student's own rule is."""
    anchors, sizes = torch.cat([level.anchors for level in levels]), [len(level.anchors) for level in levels]
    index = torch.stack([nearest_above_average(anchors, sizes, target.boxes.float(), NEAREST) for target in targets])
    objects = [
        torch.cat((target.boxes.float(), anchors.new_zeros(1, 4)))[one] for target, one in zip(targets, index, strict=True)
    ]  # -1 takes the row of zeros
    return LearnedRows(index >= 0, torch.stack(objects))


@torch.no_grad()
def near_objects(levels: Sequence[LevelRows], targets: Sequence[Target], least: float) -> Tensor:
    """Rows [B, N] whose anchor is near an object but does not learn one: LD's valuable region.

    Its DIoU with an object is below the overlap from which ATSS's candidates learn it, and at least `least` times as large.
    """
    anchors, sizes = torch.cat([level.anchors for level in levels]), [len(level.anchors) for level in levels]
    found = []
    for target in targets:
        boxes = target.boxes.float()
        near = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
        if len(boxes):
            overlaps = pairwise_iou(anchors, boxes)
            _, enough = enough_overlap(anchors, sizes, boxes, NEAREST, overlaps)
            apart = overlaps - _center_distance(anchors, boxes)
            near = ((apart >= least * enough) & (apart < enough)).any(dim=1)
            near = near & (nearest_above_average(anchors, sizes, boxes, NEAREST) < 0)
        found.append(near)
    return torch.stack(found)


def _center_distance(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The squared distance of centers over the squared diagonal of the smallest box around both, [N, M]."""
    one, other = anchors[:, None], boxes[None]
    around = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    moved = (one[..., :2] + one[..., 2:] - other[..., :2] - other[..., 2:]) / 2
    return moved.square().sum(dim=-1) / around.square().sum(dim=-1).clamp(min=1e-7)
