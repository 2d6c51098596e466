"""Masked generative distillation: the teacher's features, generated from part of the student's.

Yang et al., "Masked Generative Distillation", ECCV 2022, https://arxiv.org/abs/2205.01529. For all detectors.

Constants: weight 2e-5, 65% of the positions hidden; for two-stage students 5e-7 and 45% (yzd-v/MGD, det/configs/distillers/mgd).

Squared errors are summed and divided by the number of images only (det/mmdet/distillation/losses/mgd.py), so the weights hold for
images of about 800 x 1333 px and 256 channels.

Departures: hidden positions are drawn by a generator of its own, others in every step, so a resumed training hides the same ones; every
level that both pyramids have learns (`strides` chooses others); generators run outside of autocast in fp16, where their sums may overflow.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.draws import Draws
from stages.losses.features.level_loss import LevelLoss, Pairing, aligners, pairing
from stages.losses.features.options import Missing, Strides

READS = ("pyramid",)
INVARIANT_TO = ()


class MaskedGenerative(LevelLoss):
    """See `build`."""

    def __init__(self, paired: Pairing, weight: float, hidden: float) -> None:
        super().__init__(paired, aligners(paired.widths))
        self.weights = {"feature": weight}
        self.hidden = hidden
        self.draws = Draws()
        self.generators = nn.ModuleList(_generator(other) for _, other in paired.widths)

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "feature" of each level."""
        numbers = self.draws.generator()
        terms = {}
        for generator, (stride, own, other) in zip(self.generators, self.adapted(student, teacher), strict=True):
            shown = torch.rand(len(own), 1, *own.shape[2:], generator=numbers) <= 1 - self.hidden
            with _without_fp16(own.device.type):
                made = generator(own * shown.to(own.device)).float()
            terms[f"feature/{stride}"] = (made - other).square().sum() / len(own)
        return terms


def _generator(channels: int) -> nn.Module:
    layers = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def _without_fp16(device: str) -> torch.autocast | nullcontext[None]:
    """Leaves autocast to fp16, which overflows at 65,504; bfloat16 does not."""
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        return torch.autocast(device, enabled=False)
    return nullcontext()


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    hidden: Annotated[float, Field(ge=0, lt=1)] | None = None,
    strides: Strides = None,
    missing: Missing = "skip",
) -> Loss:
    """The squared error between the teacher's features and those generated from the student's at the positions that are not hidden.

    Args:
        hidden: share of the positions that are hidden; null: 0.45 for two-stage students, otherwise 0.65.
    """
    weight, published = (5e-7, 0.45) if student.kind == "two_stage" else (2e-5, 0.65)
    return MaskedGenerative(pairing(student, teacher, strides, missing), weight, published if hidden is None else hidden)
