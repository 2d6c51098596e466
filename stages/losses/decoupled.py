"""Decoupled features: objects and background are distilled apart, each by its own weight.

Guo et al., "Distilling Object Detectors via Decoupled Features", CVPR 2021, https://arxiv.org/abs/2103.14475. For all detectors.

Constants: weights 4 inside objects, 16 outside, for COCO by an author (ggjy/DeFeat.pytorch#18); 3 and 12 for VOC
(configs/kd_faster_rcnn/voc_stu_faster_rcnn_r50_decouple_neck.py).

Errors are divided by twice the number of values inside or
outside, and averaged over levels (mmdet/apis/train.py); objects count on one level each (mmdet/models/dense_heads/anchor_head.py).

The adapters are the code's 3x3 convolutions, which start near zero. Departures: only the pyramid's part; neither features of the
backbone nor classes of proposals. Boxes thinner than a cell cover their row or column of cells instead of a single cell, and sides are
computed without an extra pixel.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.level_loss import LevelLoss, Pairing, pairing
from stages.losses.features.levels import adapters
from stages.losses.features.object_masks import by_level, in_cells, union
from stages.losses.features.options import Missing, Strides
from stages.processes import shared_count

READS = ("pyramid", "targets")
INVARIANT_TO = ("batch",)


class Decoupled(LevelLoss):
    """See `build`."""

    def __init__(self, paired: Pairing, foreground: float, background: float) -> None:
        super().__init__(paired, adapters("conv3x3", paired.widths))
        for adapter in self.adapters:
            assert isinstance(adapter, nn.Conv2d)
            assert adapter.bias is not None
            nn.init.trunc_normal_(adapter.weight, std=1e-4, a=-2e-4, b=2e-4)
            nn.init.zeros_(adapter.bias)
        share = len(paired.levels)
        self.weights = {"foreground": foreground / share, "background": background / share}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "foreground" and "background" of each level: half the mean squared error inside and outside objects."""
        by_levels = by_level([one.boxes for one in targets], [pair.own for pair in self.paired.levels])
        terms: dict[str, Tensor] = {}
        for boxes, (stride, own, other) in zip(by_levels, self.adapted(student, teacher), strict=True):
            cells = (own.shape[2], own.shape[3])
            objects = torch.stack([union(in_cells(some, student.size, cells), cells) for some in boxes]).to(own.dtype)
            error = (own - other).square().sum(dim=1)
            for name, counted in (("foreground", objects), ("background", 1 - objects)):
                terms[f"{name}/{stride}"] = (error * counted).sum() / (2 * own.shape[1] * shared_count(counted.sum()))
        return terms


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    foreground_weight: Annotated[float, Field(ge=0)] = 4.0,
    background_weight: Annotated[float, Field(ge=0)] = 16.0,
    strides: Strides = None,
    missing: Missing = "skip",
) -> Loss:
    """The squared error between features inside objects, and outside.

    Args:
        foreground_weight: weight of the error inside objects.
        background_weight: weight of the error outside objects.
    """
    return Decoupled(pairing(student, teacher, strides, missing), foreground_weight, background_weight)
