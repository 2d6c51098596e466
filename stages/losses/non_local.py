"""Non-local distillation: the relations between positions.

Zhang & Ma, "Structured Knowledge Distillation for Accurate and Efficient Object Detection", IEEE TPAMI 2023,
https://doi.org/10.1109/TPAMI.2023.3300470; the block is from Wang et al., "Non-local Neural Networks", CVPR 2018.

Departures of the preset `normalised`, see stages/losses/features/presets.py: each channel of an image is normalized to mean 0 and standard
deviation 1 and the squared error is averaged; the block's last convolution starts at zero instead of being followed by a batch
norm that does, so it is initially the identity without statistics over the batch. Both sides' blocks are trained by this loss
itself, as in the authors' code.
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
from stages.losses.features.errors import mean_square, norm
from stages.losses.features.levels import LevelPair, adapters, channels, match, pairs
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
        difference = self._difference(index, own, other)
        return mean_square(difference) if normalised else norm(difference)

    def _difference(self, index: int, own: Tensor, other: Tensor) -> Tensor:
        """The student's features plus what they draw, adapted, minus the teacher's features plus what they draw, [B, C, H, W].

        The adapter A on x + R x is (A + A R) x: neither side's features plus what they draw are ever written to memory.
        """
        rows, other_rows = _rows(own), _rows(other)
        added, other_added = self.own[index](own, rows), self.other[index](other, other_rows)
        with torch.autocast(own.device.type, enabled=False):  # what is drawn overflows half precision
            matrix, bias = _linear(self.adapters[index], own)
            shift = added.bias @ matrix.t() + bias - other_added.bias
            difference = _affine(shift[:, None], rows, matrix, added.rows, matrix @ added.weight)
            identity = torch.eye(other_rows.shape[2], device=other.device)
            difference = _affine(difference, other_rows, -identity, other_added.rows, -other_added.weight)
        batch, _, channels = difference.shape
        return difference.transpose(1, 2).reshape(batch, channels, *own.shape[-2:])


def _rows(features: Tensor) -> Tensor:
    """Features [B, C, H, W] as [B, H * W, C] in float32, a view if they are in float32 and channels last."""
    return features.flatten(2).transpose(1, 2).float()


def _linear(adapter: nn.Module, own: Tensor) -> tuple[Tensor, Tensor]:
    """An adapter's weight [D, C] and bias [D], those of the identity if there is none."""
    if not isinstance(adapter, nn.Conv2d):
        return torch.eye(own.shape[1], device=own.device), own.new_zeros(own.shape[1])
    assert adapter.bias is not None
    return adapter.weight.flatten(1), adapter.bias


def _affine(start: Tensor, rows: Tensor, matrix: Tensor, drawn: Tensor, weight: Tensor) -> Tensor:
    """start + rows M^T + drawn W_b^T, with M [C, K] for the batch and W_b [C, L] per image; one product if `drawn` is `rows`."""
    if drawn is rows:
        return torch.baddbmm(start, rows, (matrix + weight).transpose(1, 2))
    return torch.baddbmm(start, drawn, weight.transpose(1, 2)) + rows @ matrix.t()


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
