"""How second stages learn: one after the other, each from the regions that the one before it has moved closer to the objects.

Cai and Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection", CVPR 2018, https://arxiv.org/abs/1712.00726, as in
mmdet: regions that were an object's own box are not passed on, and every stage gets the objects' own boxes anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from stages.detectors import Target
from stages.detectors.boxes.coding import encode
from stages.detectors.boxes.matching import MatchRule, assign
from stages.detectors.two_stage.assignment import sample
from stages.processes import rescale

_POSITIVE_SHARE = 0.25

Deviations = tuple[float, float, float, float]


@dataclass(frozen=True)
class RefinementStage:
    """What a paper prescribes of a stage.

    overlap: IoU from which on a region learns an object. deviations: what deltas are divided by. weight: factor of its losses.
    beta: error of a delta up to which its loss is a square; 0: a line everywhere.
    """

    overlap: float
    deviations: Deviations
    weight: float = 1.0
    beta: float = 1.0

    @property
    def coding(self) -> Deviations:
        """The deltas' factors, see `decode`."""
        x, y, width, height = self.deviations
        return 1 / x, 1 / y, 1 / width, 1 / height


CASCADE = (
    RefinementStage(0.5, (0.1, 0.1, 0.2, 0.2), 1.0),
    RefinementStage(0.6, (0.05, 0.05, 0.1, 0.1), 0.5),
    RefinementStage(0.7, (0.033, 0.033, 0.067, 0.067), 0.25),
)
"""Cascade R-CNN's stages."""

SINGLE = (RefinementStage(0.5, (0.1, 0.1, 0.2, 0.2), beta=0.0),)
"""Faster R-CNN's and Mask R-CNN's."""


class RegionRules(nn.Module):
    """When a region learns an object, and where the loss of boxes turns from a square to a line: as the stages prescribe.

    Subclasses change both with what they observe in training.
    """

    def __init__(self, stages: Sequence[RefinementStage]) -> None:
        super().__init__()
        self.stages = tuple(stages)

    def overlap(self, index: int) -> float | Tensor:
        """IoU from which on a region learns an object in this stage."""
        return self.stages[index].overlap

    def beta(self) -> float | Tensor:
        """Error of a delta above which its loss grows linearly."""
        return self.stages[0].beta

    def observe(self, overlaps: Sequence[Tensor], deltas: Tensor) -> None:
        """Take note of a batch.

        Args:
            overlaps: per image [N], the largest IoU of each proposal, and 1 for each object's own box.
            deltas: [all positives, 4], what the regions with an object learn.
        """


class Sampled(NamedTuple):
    """The regions of an image that are learned from, those with an object first, and the objects' index for those.

    own: [N] bool, which of them are an object's own box; overlaps: see RegionRules.observe.
    """

    boxes: Tensor
    objects: Tensor
    own: Tensor
    overlaps: Tensor


def sample_regions(proposals: Tensor, target: Target, overlap: float | Tensor, num_regions: int, claim: float | None = None) -> Sampled:
    """Choose among proposals [N, 4] and the objects' own boxes; `claim` as in MatchRule."""
    assigned = assign(proposals, target.boxes, MatchRule(overlap, overlap, claim))
    count = len(target.boxes)
    boxes = torch.cat((target.boxes, proposals))
    objects = torch.cat((torch.arange(count, device=proposals.device), assigned.objects))
    positive, negative = sample(objects, num_regions, _POSITIVE_SHARE)
    chosen = torch.cat((positive, negative))
    overlaps = torch.cat((assigned.overlaps.new_ones(count), assigned.overlaps))
    return Sampled(boxes[chosen], objects[positive], chosen < count, overlaps)


class Learned(NamedTuple):
    """What regions learn: labels [N], the background's is the number of classes; positive: the indices of those with an object.

    deltas: [positives, 4].
    """

    labels: Tensor
    positive: Tensor
    deltas: Tensor


def learned(chosen: Sequence[Sampled], targets: Sequence[Target], background: int, coding: Deviations) -> Learned:
    """What the sampled regions of all images learn."""
    labels, positive, deltas = [], [], []
    for one, target in zip(chosen, targets, strict=True):
        own = torch.full((len(one.boxes),), background, device=one.boxes.device)
        own[: len(one.objects)] = target.labels[one.objects]
        labels.append(own)
        positive.append(torch.arange(len(own), device=own.device) < len(one.objects))
        deltas.append(encode(one.boxes[: len(one.objects)], target.boxes[one.objects], coding))
    return Learned(torch.cat(labels), torch.where(torch.cat(positive))[0], torch.cat(deltas))


def box_losses(class_logits: Tensor, box_deltas: Tensor, wanted: Learned, beta: float | Tensor) -> dict[str, Tensor]:
    """The losses of classes and boxes, divided by the number of all regions.

    Args:
        class_logits: [N, K + 1]; box_deltas: [N, K * 4] or [N, 4].
    """
    own = box_deltas.reshape(len(box_deltas), -1, 4)[wanted.positive]
    index = wanted.labels[wanted.positive] if own.shape[1] > 1 else torch.zeros_like(wanted.positive)
    own = own[torch.arange(len(own), device=own.device), index]
    classes = functional.cross_entropy(class_logits, wanted.labels, reduction="sum")
    count = len(class_logits)
    found = {"loss_classifier": classes / max(count, 1), "loss_box_reg": smooth_l1(own - wanted.deltas, beta) / max(count, 1)}
    return rescale(found, count, class_logits.device)


def smooth_l1(errors: Tensor, beta: float | Tensor) -> Tensor:
    """The sum of the squares' halves over beta up to beta, and of the errors less half of beta above."""
    size = errors.abs()
    if isinstance(beta, float) and beta == 0:
        return size.sum()
    return torch.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta).sum()


def mask_losses(logits: Tensor, wanted: Learned, chosen: Sequence[Sampled], masks: Sequence[Tensor]) -> dict[str, Tensor]:
    """The loss of masks, the mean over all regions with an object.

    Args:
        logits: [positives, K, h, w]; masks: [M, H, W] per image.
    """
    side = logits.shape[-1]
    shapes = []
    for one, own in zip(chosen, masks, strict=True):
        rows = torch.cat((one.objects[:, None].to(one.boxes.dtype), one.boxes[: len(one.objects)]), dim=1)
        shapes.append(roi_align(own[:, None].to(one.boxes.dtype), rows, side, 1.0, sampling_ratio=0, aligned=True)[:, 0] >= 0.5)
    index = torch.arange(len(logits), device=logits.device)
    own_logits = logits[index, wanted.labels[wanted.positive]]
    total = functional.binary_cross_entropy_with_logits(own_logits, torch.cat(shapes).to(logits.dtype), reduction="sum")
    return rescale({"loss_mask": total / max(own_logits.numel(), 1)}, len(logits), logits.device)
