"""Channel-wise distillation: where in the image each channel is active.

Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, https://arxiv.org/abs/2011.13256. For all detectors.

Constants: weight 5, temperature 1 (pppppM/mmdetection-distiller, configs/distillers/cwd); weight 10 in open-mmlab/mmrazor
(configs/distill/mmdet/cwd).

Departures from mmdet/distillation/losses/cwd.py of the former: the divergence itself instead of the cross entropy, which differs by
the teacher's constant entropy, so an equal student has loss 0. As there, only levels with different numbers of channels have an
adapter.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.level_loss import LevelLoss, Pairing, aligners, pairing
from stages.losses.features.options import Missing, Strides

READS = ("pyramid",)
INVARIANT_TO = ("batch", "size")


class ChannelWise(LevelLoss):
    """See `build`."""

    def __init__(self, paired: Pairing, temperature: float) -> None:
        super().__init__(paired, aligners(paired.widths))
        self.weights = {"channel": 5.0}
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "channel" of each level."""
        return {f"channel/{stride}": self._divergence(own, other) for stride, own, other in self.adapted(student, teacher)}

    def _divergence(self, own: Tensor, other: Tensor) -> Tensor:
        """Of the positions' shares of each channel, from the teacher's to the student's, summed over positions."""
        mine, theirs = ((features.flatten(2) / self.temperature).log_softmax(dim=2) for features in (own, other))
        num_channels = own.shape[0] * own.shape[1]
        return kl_div(mine, theirs, reduction="sum", log_target=True) * self.temperature**2 / num_channels


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    strides: Strides = None,
    missing: Missing = "skip",
) -> Loss:
    """The divergence between the softmax of both networks' channels over positions.

    Args:
        temperature: temperature of the softmax; values below 1 sharpen it.
    """
    return ChannelWise(pairing(student, teacher, strides, missing), temperature)
