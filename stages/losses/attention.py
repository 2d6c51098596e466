"""Attention-guided distillation.

Zhang & Ma, "Structured Knowledge Distillation for Accurate and Efficient Object Detection", IEEE TPAMI 2023,
https://doi.org/10.1109/TPAMI.2023.3300470; first in ICLR 2021, https://openreview.net/forum?id=uKhGRvM8QNH.

Departures: features are divided by their root mean square per image and level, and squared errors are averaged where the
paper takes the Euclidean norm of the whole batch, so that one weight serves every batch size, resolution and channel count.
The attention of both networks is added before the softmax, as in the paper's text. The student's attention, for the mask and
for the transfer term over positions, is of its own features; the transfer term over channels compares the adapted ones.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.attention_maps import channel_attention, channel_mask, spatial_attention, spatial_mask, standardized
from stages.detectors import Outputs, Target
from stages.levels import LevelPair, channels, match, pairs
from stages.losses import Loss, Pyramid


def masked_error(adapted: Tensor, teacher: Tensor, spatial: Tensor, channel: Tensor) -> Tensor:
    """The mean of (teacher - adapted)^2 [B, C, H, W] weighted by masks [B, 1, H, W] and [B, C, 1, 1], which carry no gradient."""
    return ((teacher - adapted).square() * spatial.detach() * channel.detach()).mean()


class Attention(Loss):
    """See `build`."""

    def __init__(
        self,
        widths: Sequence[tuple[int, int]],
        levels: tuple[LevelPair, ...],
        temperature: float,
        feature_weight: float,
        transfer_weight: float,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.temperature = temperature
        self.feature_weight = feature_weight
        self.transfer_weight = transfer_weight
        self.adapters = nn.ModuleList(nn.Conv2d(own, other, 1) for own, other in widths)

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Terms "feature" and "transfer", each the mean over levels."""
        levels = zip(self.adapters, pairs(student, teacher, self.levels), strict=True)
        terms = [self._level(adapter, own, other) for adapter, (own, other) in levels]
        feature, transfer = (torch.stack(values).mean() for values in zip(*terms, strict=True))
        return {"feature": feature * self.feature_weight, "transfer": transfer * self.transfer_weight}

    def _level(self, adapter: nn.Module, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        adapted, teacher, raw = adapter(own).float(), standardized(other), standardized(own)
        spatial = spatial_mask(spatial_attention(raw) + spatial_attention(teacher), self.temperature)
        channel = channel_mask(channel_attention(adapted) + channel_attention(teacher), self.temperature)
        feature = masked_error(adapted, teacher, spatial, channel)
        over_positions = (spatial_attention(raw) - spatial_attention(teacher)).square().mean()
        over_channels = (channel_attention(adapted) - channel_attention(teacher)).square().mean()
        return feature, over_positions + over_channels


def build(
    student: Pyramid,
    teacher: Pyramid,
    *,
    temperature: Annotated[float, Field(gt=0)] = 0.5,
    feature_weight: Annotated[float, Field(ge=0)] = 1.0,
    transfer_weight: Annotated[float, Field(ge=0)] = 1.0,
    strides: tuple[int, ...] | None = None,
    missing: Literal["skip", "interpolate"] = "skip",
) -> Loss:
    """The attention-masked feature loss and the attention transfer loss.

    Args:
        temperature: of both masks; below 1 sharpens them.
        feature_weight: of the masked squared error between adapted student and teacher features.
        transfer_weight: of the squared error between their attention maps.
        strides: the student's levels that learn; null for all that can.
        missing: what becomes of a level whose stride the teacher lacks: it is left out, or learns from the nearest one, resized.
    """
    levels = match(student, teacher, strides, missing)
    return Attention(channels(student, teacher, levels), levels, temperature, feature_weight, transfer_weight)
