"""Non-local distillation: the relations between positions.

Zhang & Ma, "Structured Knowledge Distillation for Accurate and Efficient Object Detection", IEEE TPAMI 2023,
https://doi.org/10.1109/TPAMI.2023.3300470; the block is from Wang et al., "Non-local Neural Networks", CVPR 2018.

Departures of the preset `normalised`, see stages/losses/features/presets.py: each channel of an image is normalized to mean 0 and standard
deviation 1 and the squared error is averaged; the block's last convolution starts at zero instead of being followed by a batch
norm that does, so it is initially the identity without statistics over the batch. Both sides' blocks are trained by this loss
itself, as in the authors' code.

With dot products, student and teacher differ by a linear map of both their features, computed per image, so the squared error follows
from the joint covariance of the features. The same numbers up to rounding, which is that of sums of squares of the features: of an
error of a thousandth of their norm, three digits are right.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.attention_maps import standardized
from stages.losses.features.errors import root
from stages.losses.features.levels import LevelPair, adapters, channels, match, pairs, rows
from stages.losses.features.moments import moments, variances
from stages.losses.features.non_local_block import NonLocalBlock, Relation
from stages.losses.features.options import Missing, PresetName, Statistics, Strides
from stages.losses.features.presets import Preset, chosen

READS = ("pyramid",)
INVARIANT_TO = ("batch", "size", "scale")


class NonLocal(Loss):
    """See `build`."""

    def __init__(
        self,
        widths: Sequence[tuple[int, int]],
        levels: tuple[LevelPair, ...],
        strides: tuple[int, ...],
        preset: Preset,
        relation: Relation,
        adapter: Literal["conv1x1", "none"],
    ) -> None:
        super().__init__()
        self.levels = levels
        self.strides = strides
        self.preset = preset
        self.weights = {"relation": preset.relation / (len(levels) if preset.error == "mean_square" else 1)}

        def block(channels: int, index: int) -> NonLocalBlock:
            pool, reduction = (values[min(index, len(values) - 1)] for values in (preset.pools, preset.reductions))
            return NonLocalBlock(channels, max(1, channels // reduction), pool, relation, batch_norm=preset.batch_norm)

        self.own = nn.ModuleList(block(own, index) for index, (own, _) in enumerate(widths))
        self.other = nn.ModuleList(block(other, index) for index, (_, other) in enumerate(widths))
        self.adapters = adapters(adapter, widths)

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "relation" of each level."""
        levels = enumerate(pairs(student, teacher, self.levels))
        return {f"relation/{self.strides[index]}": self._level(index, own, other) for index, (own, other) in levels}

    def _level(self, index: int, own: Tensor, other: Tensor) -> Tensor:
        normalised = self.preset.error == "mean_square"
        if normalised:
            own, other = (standardized(features, self.preset.statistics) for features in (own, other))
        square = self._square(index, own, other)
        return square.mean() / other.shape[1] if normalised else root(square.sum() * own[0, 0].numel())

    def _square(self, index: int, own: Tensor, other: Tensor) -> Tensor:
        """The squared error between the student's features plus what they draw, adapted, and the teacher's plus what they draw.

        Summed over channels, the mean over positions, [B]. It is a quadratic form in the joint covariance of both sides' features:
        neither side's features plus what they draw, nor their difference, are ever computed.
        """
        block, other_block = self.own[index], self.other[index]
        assert isinstance(block, NonLocalBlock)
        assert isinstance(other_block, NonLocalBlock)
        drawn, other_drawn = block(own, rows(own)), other_block(other, rows(other))
        with torch.autocast(own.device.type, enabled=False):  # what is drawn overflows half precision
            mean, covariance = moments(drawn.rows, other_drawn.rows)
            ours = slice(drawn.rows.shape[2])
            theirs = slice(ours.stop, None)
            weight, bias = block.related(drawn, mean[:, ours], covariance[:, ours, ours])
            other_weight, other_bias = other_block.related(other_drawn, mean[:, theirs], covariance[:, theirs, theirs])
            if isinstance(adapter := self.adapters[index], nn.Conv2d):
                assert adapter.bias is not None
                matrix = adapter.weight.flatten(1)
                weight, bias = matrix @ weight, bias @ matrix.t() + adapter.bias
            difference = torch.cat((weight, -other_weight), dim=2)
            constant = (difference @ mean[:, :, None])[..., 0] + bias - other_bias
            spread = variances(difference, covariance).sum(dim=1)
            square: Tensor = spread.clamp(min=0) + constant.square().sum(dim=1)  # where nothing differs, rounding may bring it below 0
            return square


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    preset: PresetName = "normalised",
    reductions: tuple[Annotated[int, Field(ge=1)], ...] | None = None,
    pools: tuple[Annotated[int, Field(ge=1)], ...] | None = None,
    relation: Literal["dot_product", "embedded_gaussian"] = "dot_product",
    strides: Strides = None,
    missing: Missing = "skip",
    statistics: Statistics = "image",
    adapter: Literal["conv1x1", "none"] = "conv1x1",
) -> Loss:
    """Relation modules on both sides, matched after a 1x1 adapter.

    Args:
        preset: form of the loss, and values of the next two options if they are null.
        reductions: factor by which the projections reduce the channels, per level, finest first; the last value applies to all further
            levels.
        pools: max-pooling size per level, finest first; the last value applies to all further levels.
        relation: similarity of two positions: their product, or its softmax over the pooled positions.
        adapter: layer that maps the student's channels to the teacher's; `none` requires equal numbers of channels.

    Raises:
        ConfigError: batch statistics with a preset that does not standardize; no adapter between different numbers of channels.
    """
    form = chosen(preset, statistics)
    form = replace(form, pools=pools or form.pools, reductions=reductions or form.reductions)
    levels = match(student, teacher, strides, missing)
    learning = tuple(student.strides[level.own] for level in levels)
    return NonLocal(channels(student, teacher, levels), levels, learning, form, relation, adapter)
