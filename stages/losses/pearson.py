"""Pearson correlation distillation: each channel against the teacher's, whatever its mean and scale.

Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient", NeurIPS 2022,
https://arxiv.org/abs/2207.02039. For all detectors.

Constants: weight 6 for two-stage students, otherwise 10 (open-mmlab/mmrazor, configs/distill/mmdet/pkd).

Departures from mmrazor/models/losses/pkd_loss.py, whose halved squares are 1 minus the correlation, too: the deviation is the
population's, with which the term is the correlation exactly; 1e-12 is added to the variance instead of 1e-6 to the deviation, which
has a gradient at 0; statistics cover the batches of all processes (of one part, if batches are processed in parts); a 1x1
convolution precedes where numbers of channels differ.
"""

from collections.abc import Sequence

from torch import Tensor

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.batch_statistics import standardized_over_batch
from stages.losses.features.errors import mean_square
from stages.losses.features.level_loss import LevelLoss, Pairing, aligners, pairing
from stages.losses.features.options import Missing, Strides

READS = ("pyramid",)
INVARIANT_TO = ("batch", "size", "scale", "channel_scale")
_LEAST_VARIANCE = 1e-12


class Pearson(LevelLoss):
    """See `build`."""

    def __init__(self, paired: Pairing, weight: float) -> None:
        super().__init__(paired, aligners(paired.widths))
        self.weights = {"correlation": weight}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "correlation" of each level, from 0 to 2."""
        return {f"correlation/{stride}": self._level(own, other) for stride, own, other in self.adapted(student, teacher)}

    def _level(self, own: Tensor, other: Tensor) -> Tensor:
        mine, theirs = (standardized_over_batch(features, _LEAST_VARIANCE) for features in (own, other))
        return mean_square(mine - theirs) / 2


def build(student: NetworkSide, teacher: NetworkSide, *, strides: Strides = None, missing: Missing = "skip") -> Loss:
    """One minus the correlation of both networks' channels over all positions of the batch."""
    return Pearson(pairing(student, teacher, strides, missing), 6.0 if student.kind == "two_stage" else 10.0)
