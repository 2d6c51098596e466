"""Deformable 3 x 3 convolutions: every position moves the nine places that its kernel reads, by offsets that are predicted.

Dai et al., "Deformable Convolutional Networks", ICCV 2017, https://arxiv.org/abs/1703.06211; version 2, with a factor for each place,
Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, https://arxiv.org/abs/1811.11168. As in MMDetection: all
groups of channels share one set of offsets, which starts at 0; version 2's factors start at one half. Departure: backbones whose blocks
have two 3 x 3 convolutions may be deformable, too, in the second.

Training uses torchvision's operator, the deployed graph one sampling per layer and an ordinary convolution, which every runtime has.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula
from torchvision.ops import deform_conv2d

_SIDE = 3
_TAPS = _SIDE**2

OFFSETS = ".conv_offset."
"""Part of the names of the tensors that predict offsets; weights of plain backbones lack them."""


@dataclass(frozen=True)
class Deformable:
    """The stages of a ResNet, 3 to 5, whose 3 x 3 convolutions are deformable, and in which version."""

    stages: tuple[int, ...] = ()
    version: Literal[1, 2] = 1


PLAIN = Deformable()
"""No deformable convolution."""


@dataclass(frozen=True)
class Sampling:
    """Where a graph leaves its network, at the prediction that offsets are made of, and where it resumes, with sampled features."""

    predicted: Tensor
    sampled: Tensor


_samplings: ContextVar[list[Sampling] | None] = ContextVar("samplings", default=None)


@contextmanager
def deployed() -> Iterator[list[Sampling]]:
    """Deformable convolutions compute as in deployed graphs, and each sampling is appended to the list."""
    found: list[Sampling] = []
    token = _samplings.set(found)
    try:
        yield found
    finally:
        _samplings.reset(token)


@dataclass(frozen=True)
class Places:
    """What is read instead of a plain kernel's nine places.

    predicted: the layer's output that the others are made of.
    offsets: [B, 18, H, W], for each place, row by row, how far down and to the right of the plain one it is, in positions.
    factors: [B, 9, H, W], or None for 1.
    """

    predicted: Tensor
    offsets: Tensor
    factors: Tensor | None = None
    stride: int = 1


def convolve(features: Sequence[Tensor], places: Places, weights: Sequence[Tensor]) -> list[Tensor]:
    """Several features at the same places, each with its own kernels; always in float32, as half precision would round the places.

    Args:
        features: [B, C, h, w] each.
        weights: [C', C / groups, 3, 3] each.

    Returns:
        [B, C', H, W] each
    """
    samplings = _samplings.get()
    with torch.autocast(features[0].device.type, enabled=False):
        offsets, step = places.offsets.float(), (places.stride, places.stride)
        factors = None if places.factors is None else places.factors.float()
        if samplings is None:
            pairs = zip(features, weights, strict=True)
            return [deform_conv2d(own.float(), offsets, kernel.float(), None, step, (1, 1), (1, 1), factors) for own, kernel in pairs]
        together = torch.cat([own.float() for own in features], dim=1) if len(features) > 1 else features[0].float()
        sampled = sample(together, offsets, factors, places.stride)
    samplings.append(Sampling(places.predicted, sampled))
    parts = sampled.split([own.shape[1] for own in features], dim=1)
    groups = [own.shape[1] // kernel.shape[1] for own, kernel in zip(features, weights, strict=True)]
    return [functional.conv2d(part, kernel, None, _SIDE, 0, 1, num) for part, kernel, num in zip(parts, weights, groups, strict=True)]


def sample(features: Tensor, offsets: Tensor, factors: Tensor | None, stride: int) -> Tensor:
    """Features [B, C, h, w] at the places, zero outside, as [B, C, 3 H, 3 W]: a kernel of stride 3 reads each position's nine places."""
    rows, columns = (_steps(length, stride, offsets) for length in offsets.shape[-2:])
    y = rows[:, None] + _spread(offsets[:, 0::2])
    x = columns[None] + _spread(offsets[:, 1::2])
    height, width = features.shape[-2:]
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    found = functional.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found if factors is None else found * _spread(factors)[:, None]


def _steps(length: int, stride: int, like: Tensor) -> Tensor:
    """Where a plain kernel of padding 1 reads along one axis, [3 length]."""
    first = torch.arange(length, dtype=like.dtype, device=like.device)[:, None] * stride
    return (first + torch.arange(-1, _SIDE - 1, dtype=like.dtype, device=like.device)).flatten()


def _spread(values: Tensor) -> Tensor:
    """[B, 9, H, W] as [B, 3 H, 3 W]."""
    height, width = values.shape[-2:]
    taps: Tensor = values.unflatten(1, (_SIDE, _SIDE))
    return taps.permute(0, 3, 1, 4, 2).reshape(-1, _SIDE * height, _SIDE * width)


class DeformableKernel(nn.Module):
    """The weights of a deformable convolution that is told its offsets; named as in a convolution without bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, _SIDE, _SIDE))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")


class DeformableConvolution(nn.Module):
    """In place of a plain 3 x 3 convolution without bias, with its weights."""

    def __init__(self, plain: nn.Conv2d, version: Literal[1, 2]) -> None:
        super().__init__()
        self.stride = plain.stride[0]
        self.weight = plain.weight
        places = 2 if version == 1 else 3
        self.conv_offset = nn.Conv2d(plain.in_channels, places * _TAPS, _SIDE, self.stride, 1)
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Maps [B, C, h, w] to [B, C', H, W]."""
        predicted = self.conv_offset(features)
        factors = predicted[:, 2 * _TAPS :].float().sigmoid() if predicted.shape[1] > 2 * _TAPS else None
        places = Places(predicted, predicted[:, : 2 * _TAPS], factors, self.stride)
        return convolve((features,), places, (self.weight,))[0]


def deform(model: nn.Module, chosen: Deformable) -> None:
    """Make the last 3 x 3 convolution of every block of the chosen stages of a ResNet deformable."""
    for stage in chosen.stages:
        for block in model.get_submodule(f"layer{stage - 1}").children():
            plain = block.get_submodule("conv2")
            assert isinstance(plain, nn.Conv2d)
            block.conv2 = DeformableConvolution(plain, chosen.version)


def _count(_input: torch.Size, weight: torch.Size, *_args: object, out_shape: torch.Size, **_kwargs: object) -> int:
    """Floating-point operations, two for each product, as for a plain convolution of the same shape."""
    batch, channels, height, width = out_shape
    return 2 * batch * channels * height * width * weight[1] * weight[2] * weight[3]


_register: Callable[[Callable[..., int]], object] = register_flop_formula(torch.ops.torchvision.deform_conv2d)
_register(_count)
