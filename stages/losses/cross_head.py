"""Cross-head distillation: the student's features in the middle of its head, sent through the rest of the teacher's.

Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection", CVPR 2024, https://arxiv.org/abs/2306.11369. Written from
publications only; the authors' code, which is not free, was not read.

For FCOS, RetinaNet, ATSS, GFL and FSAF with equal numbers of boxes per position.

Constants: features cross after 3 convolutions of the towers, in FCOS after 2.

Departures: a 1x1 convolution brings the student's towers to the teacher's channels if they differ. Heads with fewer convolutions than
published are cut before their last one. Distributions of sides are compared by the GIoU of the boxes that they mean, as numbers are.
Errors are divided by the number of places that learn an object, assigned as in ATSS, whatever the student's own rule is. Each process
aligns features by the statistics of its own images.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import generalized_box_iou_loss

from deploy.errors import ConfigError
from stages.detectors import Outputs, Target, Towers
from stages.losses import Loss, NetworkSide
from stages.losses.features.levels import LevelPair
from stages.losses.features.options import Strides
from stages.losses.heads.regions import learned
from stages.losses.heads.rows import LevelRows, paired, rows

READS = ("head", "decoded", "towers", "targets")
INVARIANT_TO = ("batch",)

_AFTER, _AFTER_FCOS = 3, 2
"""Convolutions of the student's towers before its features change over, of four."""

_EPSILON = 1e-6
"""Added to a channel's standard deviation."""


class CrossHead(Loss):
    """See `build`."""

    def __init__(self, levels: tuple[LevelPair, ...], strides: tuple[int, ...], after: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.levels, self.strides, self.after = levels, strides, after
        own, other = widths
        self.adapters = nn.ModuleList(nn.Conv2d(own, other, 1) if own != other else nn.Identity() for _ in ("classes", "boxes"))
        self.weights = {"classes": 1.0, "boxes": 1.0}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "classes" and "boxes" of each level."""
        own = student.towers(self.after)
        with torch.no_grad():
            other = teacher.towers(self.after)
        crossed = teacher.head_after(self._crossed(own, other))
        count = learned(rows(student, teacher, self.levels), targets).count
        same = tuple(LevelPair(pair.other, pair.other) for pair in self.levels)
        terms: dict[str, Tensor] = {}
        for stride, level in zip(self.strides, rows(crossed, teacher, same), strict=True):
            classes, boxes = errors(level)
            terms |= {f"classes/{stride}": classes / count, f"boxes/{stride}": boxes / count}
        return terms

    def _crossed(self, own: Towers, other: Towers) -> Towers:
        """The teacher's towers, with the student's features, in the teacher's statistics, in place of its own at the levels that learn."""
        made = []
        for adapter, mine, theirs in zip(self.adapters, (own.classes, own.boxes), (other.classes, other.boxes), strict=True):
            levels = list(theirs)
            for pair in self.levels:
                levels[pair.other] = aligned(adapter(mine[pair.own]).float(), theirs[pair.other].detach().float())
            made.append(tuple(levels))
        return Towers(made[0], made[1], own.convs)


def aligned(own: Tensor, other: Tensor) -> Tensor:
    """Features [B, C, H, W] with the other ones' mean and standard deviation of each channel, over the batch and all positions."""
    axes = (0, 2, 3)
    mean, deviation = (value(own, dim=axes, keepdim=True) for value in (torch.mean, _deviation))
    return (own - mean) / (deviation + _EPSILON) * _deviation(other, dim=axes, keepdim=True) + other.mean(dim=axes, keepdim=True)


def _deviation(features: Tensor, dim: tuple[int, ...], *, keepdim: bool) -> Tensor:
    """Finite in value and gradient where all features are equal."""
    return (features.var(dim=dim, keepdim=keepdim, correction=0) + _EPSILON**2).sqrt()


def errors(level: LevelRows) -> tuple[Tensor, Tensor]:
    """The sums over a level's places of both errors.

    Of classes, the cross entropy with the teacher's probabilities, weighted by the distance from them; of boxes, GIoU, weighted by the
    teacher's highest probability.
    """
    with torch.autocast(level.logits.device.type, enabled=False):
        wanted = level.other_logits.sigmoid()
        difference = (wanted - level.logits.sigmoid()).abs()
        classes = binary_cross_entropy_with_logits(level.logits, wanted, reduction="none") * difference
        apart = generalized_box_iou_loss(level.boxes, level.other_boxes, reduction="none")
        return classes.sum(), (apart * wanted.amax(dim=-1)).sum()


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    after: Annotated[int, Field(ge=0)] | None = None,
    strides: Strides = None,
) -> Loss:
    """The teacher's head on the student's towers, against the teacher's own predictions.

    Args:
        after: number of convolutions of both heads' towers after which the student's features go through the teacher's; null: 3, for FCOS
            2, but at least one less than the shorter tower has.

    Raises:
        ConfigError: different kinds of heads, numbers of boxes per position, or towers that are too short.
    """
    levels = paired("cross_head", student, teacher, strides)
    depth = min(student.head.convs, teacher.head.convs)
    published = _AFTER_FCOS if student.detector == "fcos" else _AFTER
    if after is not None and after >= depth:
        towers = f"nothing of towers of {depth} convolutions to cross"
        raise ConfigError(f"distill.losses: cross_head: after: {after} leaves {towers}; choose at most {depth - 1}")
    learning = tuple(student.strides[level.own] for level in levels)
    chosen = min(published, depth - 1) if after is None else after
    return CrossHead(levels, learning, chosen, (student.head.channels, teacher.head.channels))
