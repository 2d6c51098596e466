"""The squared error between features behind a 1x1 adapter and other features, of which one tensor of full size is kept."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm

from stages.losses.features.levels import rows


class _AdaptedSquares(torch.autograd.Function):
    """Autograd's own gradients would write three more tensors of full size."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, other: Tensor, matrix: Tensor, bias: Tensor, weight: Tensor, channels: Tensor | None) -> Tensor:
        difference = (own @ matrix.t()).sub_(other).add_(bias)
        difference = difference if channels is None else difference.mul_(channels)
        total: Tensor = (vector_norm(difference, dim=2, keepdim=True).square() * weight).sum()
        ctx.save_for_backward(own, matrix, difference.mul_(weight if channels is None else weight * channels))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        own, matrix, weighted = ctx.saved_tensors
        flat, slope = weighted.flatten(0, 1), 2 * gradient
        return weighted @ (slope * matrix), None, slope * (flat.t() @ own.flatten(0, 1)), slope * flat.sum(dim=0), None, None


def can_adapt(adapter: nn.Module, device: str) -> bool:
    """Whether `adapted_squares` computes what the adapter does: a 1x1 convolution with bias, not in half precision."""
    is_linear = isinstance(adapter, nn.Conv2d) and adapter.kernel_size == (1, 1) and adapter.bias is not None
    return is_linear and not torch.is_autocast_enabled(device)


def adapted_squares(adapter: nn.Module, own: Tensor, other: Tensor, weight: Tensor, channel_weight: Tensor | None) -> Tensor:
    """The sum of squares of adapter(own) - other, both [B, C, H, W] in float32.

    They are weighted per position by [B, 1, H, W], and per channel by [B, C, 1, 1] if that is given; no gradient reaches the weights.
    """
    assert isinstance(adapter, nn.Conv2d)
    channels = None if channel_weight is None else rows(channel_weight).sqrt()
    total: Tensor = _AdaptedSquares.apply(rows(own), rows(other), adapter.weight.flatten(1), adapter.bias, rows(weight), channels)
    return total
