"""Attention-guided distillation.

Zhang & Ma, "Structured Knowledge Distillation for Accurate and Efficient Object Detection", IEEE TPAMI 2023,
https://doi.org/10.1109/TPAMI.2023.3300470; first in ICLR 2021, https://openreview.net/forum?id=uKhGRvM8QNH.

Departures of the preset `normalised`, see stages/losses/features/presets.py: each channel of an image is normalized to mean 0 and standard
deviation 1, and squared errors are averaged. The student's attention over positions, for the mask and for the transfer, is computed
from its own features, its attention over channels from the adapted ones. The other presets use the student's own features everywhere,
as in the authors' code, except for attention over channels if student and teacher have different numbers of them: then the adapted.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.adapted_squares import adapted_squares, can_adapt
from stages.losses.features.attention_maps import (
    averaged_mask,
    channel_attention,
    channel_mean,
    position_mean,
    spatial_attention,
    standardized,
    summed_mask,
)
from stages.losses.features.errors import mean_square, norm, root
from stages.losses.features.levels import Adapter, LevelPair, adapters, channels, match, pairs
from stages.losses.features.options import Missing, PresetName, Statistics, Strides
from stages.losses.features.presets import Preset, chosen

READS = ("pyramid",)
INVARIANT_TO = ("batch", "size", "scale")


class Attention(Loss):
    """See `build`."""

    def __init__(
        self,
        widths: Sequence[tuple[int, int]],
        levels: tuple[LevelPair, ...],
        strides: tuple[int, ...],
        preset: Preset,
        adapter: Adapter,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.strides = strides
        self.preset = preset
        share = len(levels) if preset.error == "mean_square" else 1
        transfer = preset.transfer / share
        self.weights = {"feature": preset.feature / share, "spatial": transfer, "channel": transfer}
        self.adapters = adapters(adapter, widths)
        for one, (own, other) in zip(self.adapters, widths, strict=True):
            used = preset.compared == "magnitude" and (preset.error == "mean_square" or own != other)
            one.requires_grad_(preset.feature > 0 or (preset.transfer > 0 and used))
        adapted = preset.compared == "adapted_mean" and preset.transfer > 0
        self.spatial_adapters = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in widths if adapted)
        self.channel_adapters = nn.ModuleList(nn.Linear(own, other) for own, other in widths if adapted)

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "feature", "spatial" and "channel" of each level, if they have a weight."""
        terms: dict[str, Tensor] = {}
        for index, (own, other) in enumerate(pairs(student, teacher, self.levels)):
            level = self._level(index, own, other)
            terms |= {f"{name}/{self.strides[index]}": value for name, value in level.items()}
        return terms

    def _level(self, index: int, own: Tensor, other: Tensor) -> dict[str, Tensor]:
        adapter, raw = self.adapters[index], own
        normalised = self.preset.error == "mean_square"
        if normalised:
            own, other = (standardized(features, self.preset.statistics) for features in (own, other))
            raw = own if isinstance(adapter, nn.Identity) else raw
        plain = not normalised and own.shape == other.shape
        compared = own if plain else adapter(raw).float()
        error = mean_square if normalised else norm
        terms: dict[str, Tensor] = {}
        if self.preset.transfer > 0:
            spatial, channel = self._transfer(index, own, compared, other)
            terms |= {"spatial": error(spatial), "channel": error(channel)}
        if self.preset.feature > 0:
            weight = self._mask(spatial_attention, own, other)
            channel_weight = self._mask(channel_attention, compared, other) if self.preset.channel_mask else None
            if plain and can_adapt(adapter, own.device.type):
                terms["feature"] = root(adapted_squares(adapter, own, other, weight, channel_weight))
            else:
                difference = (adapter(raw).float() if plain else compared) - other
                terms["feature"] = error(difference if channel_weight is None else difference * channel_weight.sqrt(), weight)
        return {name: terms[name] for name in self.weights if name in terms}

    def _transfer(self, index: int, own: Tensor, compared: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """The differences between the networks' attention over positions, and over channels of the features `compared`."""
        if self.spatial_adapters:
            spatial = self.spatial_adapters[index](channel_mean(own)) - channel_mean(other)
            return spatial, self.channel_adapters[index](position_mean(own).flatten(1)) - position_mean(other).flatten(1)
        return spatial_attention(own) - spatial_attention(other), channel_attention(compared) - channel_attention(other)

    @torch.no_grad()
    def _mask(self, attention: Callable[[Tensor], Tensor], own: Tensor, other: Tensor) -> Tensor:
        """The mask of both networks' attention; it carries no gradient, otherwise attention would avoid errors."""
        combined = summed_mask if self.preset.masks == "summed" else averaged_mask
        return combined(attention(own), attention(other), self.preset.temperature)


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    preset: PresetName = "normalised",
    temperature: Annotated[float, Field(gt=0)] | None = None,
    feature_weight: Annotated[float, Field(ge=0)] | None = None,
    transfer_weight: Annotated[float, Field(ge=0)] | None = None,
    strides: Strides = None,
    missing: Missing = "skip",
    statistics: Statistics = "image",
    adapter: Literal["conv1x1", "conv3x3", "none"] = "conv1x1",
) -> Loss:
    """The attention-masked feature loss and the attention transfer loss.

    Args:
        preset: form of the loss, and values of the next three options if they are null.
        temperature: temperature of both masks; values below 1 sharpen them.
        feature_weight: weight of the masked error between features.
        transfer_weight: weight of the error between attention maps over positions, and of the error between attention over channels.
        adapter: layer that maps the student's channels to the teacher's; `none` requires equal numbers of channels, and preset
            `normalised` then standardizes the features themselves.

    Raises:
        ConfigError: batch statistics with a preset that does not standardize; no adapter between different numbers of channels.
    """
    form = chosen(preset, statistics)
    form = replace(
        form,
        temperature=form.temperature if temperature is None else temperature,
        feature=form.feature if feature_weight is None else feature_weight,
        transfer=form.transfer if transfer_weight is None else transfer_weight,
    )
    levels = match(student, teacher, strides, missing)
    learning = tuple(student.strides[level.own] for level in levels)
    return Attention(channels(student, teacher, levels), levels, learning, form, adapter)
