"""An overhaul of feature distillation: only what the teacher's activation would let through counts.

Heo et al., "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, https://arxiv.org/abs/1904.01866. For all detectors.

Constants: weight 1e-5, which an author suggests for detection (clovaai/overhaul-distillation#2), halved for each finer level
(ImageNet/distiller.py).

Margin, partial distance and connector are those of that file; squared errors are summed and divided by the number of images only.
Departures: the paper compares features of the backbone before their activation, and computes each channel's margin, the mean of its
negative values, from the batch normalization in front of it. Here it is the levels of the pyramid, mostly linear outputs without
a normalization, and the margin is the running mean of the teacher's negative values. Pyramids behind an activation (SSD) have none, so
their margin is 0. The connector's normalization uses the batches of all processes, and has no running statistics.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.batch_statistics import Margin, standardized_over_batch
from stages.losses.features.level_loss import LevelLoss, Pairing, pairing
from stages.losses.features.options import Missing, Strides

READS = ("pyramid",)
INVARIANT_TO = ("batch",)


class Overhaul(LevelLoss):
    """See `build`."""

    def __init__(self, paired: Pairing) -> None:
        super().__init__(paired, nn.ModuleList(Connector(own, other) for own, other in paired.widths))
        self.margins = nn.ModuleList(Margin(other) for _, other in paired.widths)
        coarsest = len(paired.strides) - 1
        self.weights = {f"feature/{stride}": 1e-5 / 2 ** (coarsest - index) for index, stride in enumerate(paired.strides)}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "feature" of each level."""
        terms = {}
        for margin, (stride, own, other) in zip(self.margins, self.adapted(student, teacher), strict=True):
            wanted = torch.maximum(other, margin(other))
            counted = (own > wanted) | (wanted > 0)
            terms[f"feature/{stride}"] = ((own - wanted).square() * counted).sum() / len(own)
        return terms


class Connector(nn.Module):
    """A 1x1 convolution without bias, normalized over the batch."""

    def __init__(self, own: int, other: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(own, other, 1, bias=False)
        nn.init.normal_(self.projection.weight, std=math.sqrt(2 / other))
        self.weight = nn.Parameter(torch.ones(other))
        self.bias = nn.Parameter(torch.zeros(other))

    def forward(self, features: Tensor) -> Tensor:
        """In float32 after the convolution."""
        standard = standardized_over_batch(self.projection(features).float(), 1e-5)
        return standard * self.weight[:, None, None] + self.bias[:, None, None]


def build(student: NetworkSide, teacher: NetworkSide, *, strides: Strides = None, missing: Missing = "skip") -> Loss:
    """The squared error to the teacher's features, where these are positive or the student's are above the margin."""
    return Overhaul(pairing(student, teacher, strides, missing))
