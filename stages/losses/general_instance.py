"""General instances: the places at which both networks disagree most, whatever is there.

Dai et al., "General Instance Distillation for Object Detection", CVPR 2021, https://arxiv.org/abs/2103.02340. Constants from the first
author's reproduction, daixinghome/Distill_GID_detectron2, GID/gid/config.py; forms from its GID/gid/loss.py and GID/gid/distill_gid.py.

For dense detectors with equal numbers of boxes per position and levels of equal width.

Constants: up to 10 instances per image, of 3000 candidates, with IoU below 0.3; features of 10 x 10 samples.

Departures: a place counts by the class in which both networks differ most, as in the paper; in the code, by how far apart the
probabilities of their best classes are. Instances of any size count; in the code, those with sides from 10 px on. A response is compared
at places whose anchor overlaps an instance by 0.7 only if a position has several anchors; otherwise places are assigned to instances as in
ATSS, because single squares rarely overlap that much (the paper uses each detector's own rule). Boxes are compared by their sides, in
widths and heights of the anchor, instead of by the heads' codes, which differ between detectors; a head's quality is not compared. Levels
of regions are chosen among those that both pyramids have, by the same rule. Levels share one adapter if their channels are equal, as
published, otherwise each has its own. Each process relates the instances of its own images.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss
from torchvision.ops import batched_nms, roi_align

from deploy.errors import ConfigError
from stages.detectors import Outputs, Target
from stages.detectors.boxes.coding import clip
from stages.detectors.boxes.nms import pairwise_iou
from stages.detectors.dense.assignment import nearest_above_average
from stages.losses import Loss, NetworkSide
from stages.losses.features.levels import LevelPair, channels, pairs
from stages.losses.features.options import Strides
from stages.losses.heads.regions import NEAREST
from stages.losses.heads.rows import LevelRows, paired, rows
from stages.processes import shared_count

READS = ("pyramid", "head", "decoded")
INVARIANT_TO = ()

_CANDIDATES, _OVERLAP, _INSTANCES = 3000, 0.3, 10
"""Places per image that are considered, the IoU above which an instance suppresses a worse one, and instances per image."""

_REGION_SIZE, _SAMPLES = 10, 2
"""Positions along a side of a region, and samples along a side of each of them."""

_SAME = 0.7
"""IoU with an instance from which an anchor's response is compared."""

_FEWEST_RELATED = 3
"""With fewer instances, distances between them, relative to their mean, say nothing."""

_CANONICAL_PX, _CANONICAL_STRIDE = 224, 16
"""A region of this size is read from the level of this stride, one of twice the size from the next (Lin et al., FPN, CVPR 2017)."""


class GeneralInstance(Loss):
    """See `build`."""

    def __init__(self, widths: Sequence[tuple[int, int]], levels: tuple[LevelPair, ...], strides: tuple[int, ...], places: int) -> None:
        super().__init__()
        self.levels, self.strides, self.places = levels, strides, places
        shared = len(set(widths)) == 1
        self.adapters = nn.ModuleList(nn.Conv2d(own, other, 3, padding=1) for own, other in (widths[:1] if shared else widths))
        self.weights = {"feature": 0.005, "relation": 40.0, "classes": 0.1, "boxes": 0.1}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "feature", "relation", "classes" and "boxes"; 0 if there is nothing to compare."""
        found = rows(student, teacher, self.levels)
        instances = general_instances(found, student.size)
        maps = list(pairs(student, teacher, self.levels))
        adapted = [self.adapters[min(index, len(self.adapters) - 1)](own).float() for index, (own, _) in enumerate(maps)]
        with torch.autocast(adapted[0].device.type, enabled=False):
            own, other = self._pooled(adapted, instances), self._pooled([level for _, level in maps], instances)
            classes, boxes = self._responses(found, instances)
            return {"feature": imitation(own, other), "relation": relation(own, other), "classes": classes, "boxes": boxes}

    def _pooled(self, levels: Sequence[Tensor], instances: Sequence[Tensor]) -> Tensor:
        """The features of all instances of all images, [n, C, 10, 10], image by image, each from the level of its size."""
        image = torch.cat([one.new_full((len(one), 1), index) for index, one in enumerate(instances)])
        regions = torch.cat((image, torch.cat(list(instances))), dim=1)
        chosen = level_of(regions[:, 1:], self.strides)
        size, place = (_REGION_SIZE, _REGION_SIZE), torch.arange(len(regions), device=regions.device)
        parts, order = [levels[0].new_zeros(0, levels[0].shape[1], *size) + levels[0].sum() * 0], [place[:0]]
        for index, (level, stride) in enumerate(zip(levels, self.strides, strict=True)):
            here = chosen == index
            parts.append(roi_align(level, regions[here], size, 1 / stride, _SAMPLES, aligned=True))
            order.append(place[here])
        return torch.cat(parts)[torch.cat(order).argsort()]

    def _responses(self, levels: Sequence[LevelRows], instances: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The errors of classes and boxes at the instances' places."""
        anchors, sizes = torch.cat([level.anchors for level in levels]), [len(level.anchors) for level in levels]
        at = torch.stack([self._same(anchors, sizes, one) for one in instances])
        count = shared_count(at.sum())
        own, other, boxes, others = (
            torch.cat(parts, dim=1)[at]
            for parts in zip(*((level.logits, level.other_logits, level.boxes, level.other_boxes) for level in levels), strict=True)
        )
        extent = (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2).expand(len(at), -1, -1)[at]
        classes = binary_cross_entropy_with_logits(own, other.sigmoid(), reduction="sum")
        return classes / count, ((boxes - others) / extent).abs().sum() / count

    def _same(self, anchors: Tensor, sizes: Sequence[int], instances: Tensor) -> Tensor:
        """Which places [N] predict one of the instances [n, 4]."""
        if not len(instances):
            return torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
        if self.places == 1:
            return nearest_above_average(anchors, sizes, instances, NEAREST) >= 0
        return pairwise_iou(anchors, instances).amax(dim=1) >= _SAME


@torch.no_grad()
def general_instances(levels: Sequence[LevelRows], size: tuple[int, int]) -> list[Tensor]:
    """Boxes [n, 4] in px of each image's instances, best first: where class probabilities differ most, from the more certain network.

    More certain is the one whose best class has the higher probability.
    """
    own, other = (torch.cat([getattr(level, name) for level in levels], dim=1).sigmoid() for name in ("logits", "other_logits"))
    scores = (own - other).abs().amax(dim=2)
    more = other.amax(dim=2, keepdim=True) > own.amax(dim=2, keepdim=True)
    boxes, others = (torch.cat([getattr(level, name) for level in levels], dim=1) for name in ("boxes", "other_boxes"))
    return [_best(*both, size) for both in zip(torch.where(more, others, boxes), scores, strict=True)]


def _best(boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    order = scores.sort(descending=True, stable=True).indices[:_CANDIDATES]
    boxes, scores = clip(boxes[order], *size), scores[order]
    real = ((boxes[:, 2:] > boxes[:, :2]).all(dim=1)) & (scores > 0)
    boxes, scores = boxes[real], scores[real]
    return boxes[batched_nms(boxes, scores, torch.zeros_like(scores), _OVERLAP)[:_INSTANCES]]


def level_of(regions: Tensor, strides: Sequence[int]) -> Tensor:
    """The index of the level that each region [n, 4] is read from."""
    extent = (regions[:, 2:] - regions[:, :2]).prod(dim=1).sqrt()
    wanted = torch.floor(math.log2(_CANONICAL_STRIDE) + torch.log2(extent / _CANONICAL_PX + 1e-6))
    known = torch.tensor([math.log2(stride) for stride in strides], device=regions.device)
    return (wanted[:, None] - known).abs().argmin(dim=1)


def imitation(own: Tensor, other: Tensor) -> Tensor:
    """The squared error of features [n, C, h, w], summed over channels, a mean over all positions of all regions."""
    positions = torch.tensor(own.shape[0] * own.shape[2] * own.shape[3], device=own.device)
    return (own - other).square().sum() / shared_count(positions)


def relation(own: Tensor, other: Tensor) -> Tensor:
    """The smooth L1 error of the distances between regions [n, C, h, w], each over their mean; a mean over all pairs."""
    count = len(own)
    if count < _FEWEST_RELATED:
        return own.sum() * 0
    return smooth_l1_loss(_distances(own), _distances(other), reduction="sum") / (count * (count - 1))


def _distances(regions: Tensor) -> Tensor:
    flat = regions.flatten(1)
    apart = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return apart / (apart.sum() / (apart > 0).sum().clamp(min=1)).clamp(min=1e-12)


def build(student: NetworkSide, teacher: NetworkSide, *, strides: Strides = None) -> Loss:
    """Features, relations and responses of general instances, with the published weights.

    Raises:
        ConfigError: different kinds of heads, or numbers of boxes per position; the teacher's levels have different numbers of channels.
    """
    levels = paired("general_instance", student, teacher, strides)
    widths, learning = channels(student, teacher, levels), tuple(student.strides[level.own] for level in levels)
    if len(others := {other for _, other in widths}) > 1:
        given = f"but those of {teacher.detector} have {', '.join(map(str, sorted(others)))} channels"
        raise ConfigError(
            f"distill.losses: general_instance relates instances of different levels, which need equal numbers of channels in the teacher, "
            f"{given}; choose a different loss, or one level with strides"
        )
    return GeneralInstance(widths, levels, learning, student.head.places[levels[0].own])
