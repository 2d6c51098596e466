"""Attention transfer: where in the image the features are strong.

Zagoruyko & Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via Attention
Transfer", ICLR 2017, https://arxiv.org/abs/1612.03928. For all detectors, whatever their channels: it has no adapter.

Constants: weight 1000, found for classification (szagoruyko/attention-transfer, README.md: --beta 1e+3).

Departures: none in maps and error (at_loss in cifar.py). As a map has length 1, its values and with them the published mean over
positions shrink as it grows; `reduction: sum` does not, and needs a weight some thousand times smaller.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import normalize

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.level_loss import LevelLoss, Pairing, pairing
from stages.losses.features.options import Missing, Strides

READS = ("pyramid",)
INVARIANT_TO = ("batch", "scale")


class AttentionTransfer(LevelLoss):
    """See `build`."""

    def __init__(self, paired: Pairing, reduction: Literal["mean", "sum"]) -> None:
        super().__init__(paired, nn.ModuleList(nn.Identity() for _ in paired.levels))
        self.weights = {"map": 1000.0}
        self.reduction = reduction

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "map" of each level."""
        return {f"map/{stride}": self._level(own, other) for stride, own, other in self.adapted(student, teacher)}

    def _level(self, own: Tensor, other: Tensor) -> Tensor:
        error = (_map(own) - _map(other)).square().sum(dim=1).mean()
        return error if self.reduction == "sum" else error / own[0, 0].numel()


def _map(features: Tensor) -> Tensor:
    """The mean square of channels at each position, [B, H * W], with length 1."""
    return normalize(features.square().mean(dim=1).flatten(1))


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    strides: Strides = None,
    missing: Missing = "skip",
) -> Loss:
    """The squared difference between both networks' normalized maps of activity.

    Args:
        reduction: whether squared differences are averaged over positions, as published, or summed.
    """
    return AttentionTransfer(pairing(student, teacher, strides, missing), reduction)
