"""CSPDarknet and a pyramid whose features travel down and up again: YOLOX's backbone and neck.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021", https://arxiv.org/abs/2107.08430, after Wang et al., "CSPNet: A New Backbone that can
Enhance Learning Capability of CNN", CVPR Workshops 2020, https://arxiv.org/abs/1911.11929, and Liu et al., "Path Aggregation Network for
Instance Segmentation", CVPR 2018, https://arxiv.org/abs/1803.01534. Tensors are named as in mmdet. Departure: the three poolings over 5,
9 and 13 positions are a chain of poolings over 5, which gives the same values with less work.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
_STEM = 64
_STAGES = ((128, 3), (256, 9), (512, 9), (1024, 3))
"""Channels and blocks of each stage of a network of width and depth 1."""
_NECK_BLOCKS = 3
_POOL = 5


@dataclass(frozen=True)
class DarknetShape:
    """How large a network is: factors on its numbers of blocks and channels, and whether 3 x 3 convolutions are split in two.

    depthwise: each is one per channel, and a 1 x 1 convolution across channels.
    """

    depth: float
    width: float
    depthwise: bool = False

    def channels(self, full: int) -> int:
        """How many there are of `full` ones."""
        return max(1, int(full * self.width))

    def blocks(self, full: int) -> int:
        """How many there are of `full` ones."""
        return max(1, round(full * self.depth))

    def conv(self, channels: int, out: int, stride: int = 1) -> nn.Module:
        """A 3 x 3 convolution."""
        if not self.depthwise:
            return ConvUnit(channels, out, 3, stride)
        own, across = ConvUnit(channels, channels, 3, stride, groups=channels), ConvUnit(channels, out, 1)
        return nn.Sequential(OrderedDict(depthwise_conv=own, pointwise_conv=across))


class ConvUnit(nn.Module):
    """A convolution without bias, batch normalization and SiLU."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3, momentum=0.03)
        nn.init.kaiming_uniform_(self.conv.weight, a=math.sqrt(5))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] to [B, out, H / stride, W / stride]."""
        return functional.silu(self.bn(self.conv(features)))


class _Block(nn.Module):
    def __init__(self, channels: int, shape: DarknetShape, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1)
        self.conv2 = shape.conv(channels, channels)
        self.shortcut = shortcut

    def forward(self, features: Tensor) -> Tensor:
        made: Tensor = self.conv2(self.conv1(features))
        return made + features if self.shortcut else made


class _CrossStage(nn.Module):
    """Half of the channels pass through blocks, the other half around them."""

    def __init__(self, channels: int, out: int, num_blocks: int, shape: DarknetShape, *, shortcut: bool) -> None:
        super().__init__()
        half = out // 2
        self.main_conv = ConvUnit(channels, half, 1)
        self.short_conv = ConvUnit(channels, half, 1)
        self.final_conv = ConvUnit(2 * half, out, 1)
        self.blocks = nn.Sequential(*(_Block(half, shape, shortcut=shortcut) for _ in range(num_blocks)))

    def forward(self, features: Tensor) -> Tensor:
        made: Tensor = self.final_conv(torch.cat((self.blocks(self.main_conv(features)), self.short_conv(features)), dim=1))
        return made


class _Focus(nn.Module):
    """A quarter of the positions with four times the channels: top left, bottom left, top right, bottom right."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.conv = ConvUnit(12, out, 3)

    def forward(self, images: Tensor) -> Tensor:
        quarters = [images[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        made: Tensor = self.conv(torch.cat(quarters, dim=1))
        return made


class _Pooling(nn.Module):
    """What is largest nearby, at three ranges."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels // 2, 1)
        self.conv2 = ConvUnit(channels // 2 * 4, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        ranges = [self.conv1(features)]
        for _ in range(3):
            ranges.append(functional.max_pool2d(ranges[-1], _POOL, stride=1, padding=_POOL // 2))
        made: Tensor = self.conv2(torch.cat(ranges, dim=1))
        return made


class CspDarknet(nn.Module):
    """Maps images [B, 3, H, W] to features of strides 8, 16 and 32."""

    def __init__(self, shape: DarknetShape) -> None:
        super().__init__()
        channels = shape.channels(_STEM)
        self.stem = _Focus(channels)
        last = len(_STAGES) - 1
        for index, (full, num_blocks) in enumerate(_STAGES):
            out = shape.channels(full)
            pooling = [_Pooling(out)] if index == last else []
            blocks = _CrossStage(out, out, shape.blocks(num_blocks), shape, shortcut=index != last)
            setattr(self, f"stage{index + 1}", nn.Sequential(shape.conv(channels, out, stride=2), *pooling, blocks))
            channels = out

    def forward(self, images: Tensor) -> list[Tensor]:
        """Finest first."""
        made = [self.stem(images)]
        for index in range(len(_STAGES)):
            made.append(getattr(self, f"stage{index + 1}")(made[-1]))
        return made[-len(STRIDES) :]


class _PathAggregation(nn.Module):
    """Coarse features meet finer ones on the way down, and again on the way up; then all levels have the same number of channels."""

    def __init__(self, channels: Sequence[int], out: int, shape: DarknetShape) -> None:
        super().__init__()
        num_blocks = shape.blocks(_NECK_BLOCKS)
        pairs = list(pairwise(channels))
        self.reduce_layers = nn.ModuleList(ConvUnit(coarse, fine, 1) for fine, coarse in reversed(pairs))
        self.top_down_blocks = nn.ModuleList(_CrossStage(2 * fine, fine, num_blocks, shape, shortcut=False) for fine, _ in reversed(pairs))
        self.downsamples = nn.ModuleList(shape.conv(fine, fine, stride=2) for fine, _ in pairs)
        self.bottom_up_blocks = nn.ModuleList(_CrossStage(2 * fine, coarse, num_blocks, shape, shortcut=False) for fine, coarse in pairs)
        self.out_convs = nn.ModuleList(ConvUnit(one, out, 1) for one in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[B, C, H / s, W / s] of each stride, finest first, to [B, out, H / s, W / s]."""
        down, passed = features[-1], []
        for reduce, blocks, finer in zip(self.reduce_layers, self.top_down_blocks, reversed(features[:-1]), strict=True):
            passed.append(reduce(down))
            down = blocks(torch.cat((functional.interpolate(passed[-1], scale_factor=2.0), finer), dim=1))
        made = [down]
        for shrink, blocks, coarser in zip(self.downsamples, self.bottom_up_blocks, reversed(passed), strict=True):
            made.append(blocks(torch.cat((shrink(made[-1]), coarser), dim=1)))
        return [conv(level) for conv, level in zip(self.out_convs, made, strict=True)]


class DarknetPyramid(nn.Module):
    """Maps images [B, 3, H, W] to one map [B, out_channels, H / s, W / s] per stride s; H and W are multiples of 32."""

    def __init__(self, shape: DarknetShape) -> None:
        super().__init__()
        self.strides = STRIDES
        self.body = CspDarknet(shape)
        channels = [shape.channels(full) for full, _ in _STAGES[-len(STRIDES) :]]
        self.out_channels = channels[0]
        self.fpn = _PathAggregation(channels, self.out_channels, shape)

    def forward(self, images: Tensor) -> "dict[str, Tensor]":
        """The pyramid, keyed by stride, finest first."""
        return {str(stride): level for stride, level in zip(STRIDES, self.fpn(self.body(images)), strict=True)}
