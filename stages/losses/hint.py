"""Hints: the student's features, mapped to the teacher's channels, against the teacher's.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, https://arxiv.org/abs/1412.6550. For all detectors.

Constants: weight 1 per level (LutingWang/HEAD, configs/fitnet); others use up to 10 (tusen-ai/simpledet,
config/kd/retina_r50v1b_fpn_1x_fitnet_g10.py).

Departures: every level of the pyramid instead of one layer in the middle, together with the task losses instead of before them, and
the mean of squares instead of half their sum. Nothing is standardized, so the levels and channels with the largest values decide,
and most positions are background.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.errors import mean_square
from stages.losses.features.level_loss import LevelLoss, pairing
from stages.losses.features.levels import adapters
from stages.losses.features.options import Missing, Strides

READS = ("pyramid",)
INVARIANT_TO = ("batch", "size")


class Hint(LevelLoss):
    """See `build`."""

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "feature" of each level."""
        return {f"feature/{stride}": mean_square(own - other) for stride, own, other in self.adapted(student, teacher)}


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    adapter: Literal["conv1x1", "conv3x3", "none"] = "conv1x1",
    strides: Strides = None,
    missing: Missing = "skip",
) -> Loss:
    """The mean squared error between features, summed over levels.

    Args:
        adapter: layer that maps the student's channels to the teacher's; `none` requires equal numbers of channels.

    Raises:
        ConfigError: no adapter between different numbers of channels, or no common level.
    """
    paired = pairing(student, teacher, strides, missing)
    return Hint(paired, adapters(adapter, paired.widths))
