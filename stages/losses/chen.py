"""Soft classes, bounded boxes and a hint: the first distillation of detectors.

Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NeurIPS 2017,
https://papers.nips.cc/paper/6676-learning-efficient-object-detection-models-with-knowledge-distillation. Applied to the proposal network
and to the second stage, or to the only stage.

For dense and two-stage detectors with equal numbers of boxes per position.

Constants: weight 0.5 for each term (1 - mu), 1.5 for the background in classes; regions learn a box from an IoU of 0.5.

Departures: the task losses keep their weight instead of mu = 0.5, so the soft classes have 1 - mu beside them. A head of sigmoids has no
background class; the background's weight 1.5 is on the negative side of each class's cross entropy. Boxes are compared by their sides, in
widths and heights of the object, instead of by codes, which differ between detectors; the margin of the bound, which the paper does not
state, is an option and 0 by default. Places learn objects as in ATSS, regions of IoU 0.5 or more. Errors of the only stage are divided
by the number of places that learn an object, as its task losses are, not by that of all. The second stages are compared on the student's
best proposals and the objects' own boxes. The hint is a mean over levels. HqWei/Distillation-of-Faster-rcnn, mimic_loss.py, has no weight
for the background.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from stages.detectors import Outputs, Target
from stages.detectors.boxes.nms import pairwise_iou
from stages.losses import Loss, NetworkSide
from stages.losses.features.levels import LevelPair, adapters, channels, pairs
from stages.losses.features.options import Strides
from stages.losses.heads.regions import learned
from stages.losses.heads.rows import LevelRows, paired, rows
from stages.processes import shared_count

READS = ("pyramid", "decoded", "targets")
INVARIANT_TO = ("batch",)

_BACKGROUND = 1.5
_OBJECT = 0.5
"""IoU with an object from which a region learns its box."""


class Chen(Loss):
    """See `build`."""

    def __init__(
        self, widths: Sequence[tuple[int, int]], levels: tuple[LevelPair, ...], margin: float, regions: int, *, two_stage: bool
    ) -> None:
        super().__init__()
        self.levels, self.margin, self.regions, self.two_stage = levels, margin, regions, two_stage
        self.adapters = adapters("conv1x1", widths)
        names = ("classes", "boxes", "hint", *(("proposal_classes", "proposal_boxes") if two_stage else ()))
        self.weights = dict.fromkeys(names, 0.5)

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "classes", "boxes" and "hint"; for two stages also "proposal_classes" and "proposal_boxes"."""
        levels = zip(self.adapters, pairs(student, teacher, self.levels), strict=True)
        hints = [(adapter(own).float() - other).square().mean() for adapter, (own, other) in levels]
        terms = {"hint": torch.stack(hints).mean()}
        with torch.autocast(hints[0].device.type, enabled=False):
            classes, boxes, num_rows, count = self._rows(rows(student, teacher, self.levels), targets)
        if not self.two_stage:
            return terms | {"classes": classes / count, "boxes": boxes / count}
        terms |= {"proposal_classes": classes / num_rows, "proposal_boxes": boxes / count}
        return terms | self._second_stage(student, teacher, targets)

    def _rows(self, levels: Sequence[LevelRows], targets: Sequence[Target]) -> tuple[Tensor, Tensor, int, Tensor]:
        """The sums of both errors over a head's rows, the number of all rows, and of those that learn an object."""
        found = learned(levels, targets)
        own, other = (torch.cat([getattr(level, name) for level in levels], dim=1) for name in ("boxes", "other_boxes"))
        classes = torch.stack([soft_sigmoids(level.logits, level.other_logits) for level in levels]).sum()
        boxes = bounded(own[found.where], other[found.where], found.objects[found.where], self.margin)
        return classes, boxes, found.where.numel(), found.count

    def _second_stage(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        assert student.proposals is not None
        given = [torch.cat((best[: self.regions], one.boxes.to(best))) for best, one in zip(student.proposals, targets, strict=True)]
        own, other = student.regions(given), teacher.regions(given)
        total = shared_count(torch.tensor(sum(map(len, given)), device=given[0].device))
        own_logs, wanted = (_with_background(one.class_logits, one.background) for one in (own, other))
        learning, labels, objects = _objects(given, targets)
        boxes, others = (_of_class(one.boxes[learning], labels) for one in (own, other))
        return {
            "classes": soft_classes(own_logs.log_softmax(dim=1), wanted.detach().softmax(dim=1)) / total,
            "boxes": bounded(boxes.float(), others.detach().float(), objects, self.margin) / total,
        }


def soft_sigmoids(own: Tensor, other: Tensor) -> Tensor:
    """The sum of cross entropies with the teacher's probabilities; what speaks against a class counts as the background does."""
    wanted = other.sigmoid()
    return -(wanted * logsigmoid(own) + _BACKGROUND * (1 - wanted) * logsigmoid(-own)).sum()


def soft_classes(own: Tensor, wanted: Tensor) -> Tensor:
    """The sum over regions of the weighted cross entropy of logarithms [N, K + 1] with probabilities; the last class is the background."""
    weights = torch.ones_like(own[:1])
    weights[:, -1] = _BACKGROUND
    return -(weights * wanted * own).sum()


def bounded(own: Tensor, other: Tensor, objects: Tensor, margin: float) -> Tensor:
    """The sum of squared errors of boxes [N, 4], in their objects' extents, that are not below the teacher's by more than the margin."""
    extent = (objects[:, 2:] - objects[:, :2]).clamp(min=1e-3).repeat(1, 2)
    mine, theirs = (((boxes - objects) / extent).square().sum(dim=1) for boxes in (own, other))
    return torch.where(mine + margin > theirs, mine, torch.zeros_like(mine)).sum()


def _with_background(logits: Tensor, background: Tensor) -> Tensor:
    return torch.cat((logits, background[:, None]), dim=1).float()


def _of_class(boxes: Tensor, labels: Tensor) -> Tensor:
    """Of boxes [N, K, 4], or [N, 1, 4], those of the labels [N]."""
    chosen = labels if boxes.shape[1] > 1 else torch.zeros_like(labels)
    return boxes[torch.arange(len(boxes), device=boxes.device), chosen]


@torch.no_grad()
def _objects(given: Sequence[Tensor], targets: Sequence[Target]) -> tuple[Tensor, Tensor, Tensor]:
    """Which of all images' regions learn a box [N] bool, and of these the labels [P] and the objects' boxes [P, 4]."""
    learning, labels, objects = [], [], []
    for boxes, target in zip(given, targets, strict=True):
        if not len(target.boxes):
            learning.append(torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device))
            continue
        most, index = pairwise_iou(boxes.float(), target.boxes.float()).max(dim=1)
        own = most >= _OBJECT
        learning.append(own)
        labels.append(target.labels[index[own]])
        objects.append(target.boxes[index[own]].float())
    device = given[0].device
    none = torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, 4, device=device)
    return torch.cat(learning), torch.cat([*labels, none[0]]), torch.cat([*objects, none[1]])


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    margin: Annotated[float, Field(ge=0)] = 0.0,
    regions: Annotated[int, Field(ge=1)] = 256,
    strides: Strides = None,
) -> Loss:
    """Soft classes, bounded boxes and a hint, for one stage or two.

    Args:
        margin: squared error of a box, in extents of its object, by which the student must be better than the teacher to be left alone.
        regions: number of the student's best proposals per image that the second stages are compared on.

    Raises:
        ConfigError: different kinds of heads, set prediction, or different numbers of boxes per position.
    """
    levels = paired("chen", student, teacher, strides)
    return Chen(channels(student, teacher, levels), levels, margin, regions, two_stage=student.kind == "two_stage")
