"""First and second moments of two networks' features: all that squared errors between linear maps of them depend on."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED, BLOCK = 1024, 64
"""Rows that a processor takes at a time, so that they stay in its cache, and channels: products below the diagonal are left out."""


class _Moments(torch.autograd.Function):
    """Autograd's own gradient of a product of rows with themselves would take twice the products and several copies of the rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.cat((own.mean(dim=1), other.mean(dim=1)), dim=1)
        batch, size = mean.shape
        count, block = (CACHED, BLOCK) if own.device.type == "cpu" else (own.shape[1], size)
        centers, upper = mean[:, None].split((own.shape[2], other.shape[2]), dim=2), own.new_zeros(batch, size, size)
        space = own.new_empty(batch, min(count, own.shape[1]), size)
        for sides in zip(own.split(count, dim=1), other.split(count, dim=1), strict=True):
            rows = space[:, : sides[0].shape[1]]
            for some, center, centered in zip(sides, centers, rows.split((own.shape[2], other.shape[2]), dim=2), strict=True):
                torch.sub(some, center, out=centered)
            for first in range(0, size, block):
                columns = rows[:, :, first : first + block].transpose(1, 2)
                upper[:, first : first + block, first:].baddbmm_(columns, rows[:, :, first:])
        covariance = (upper.triu() + upper.triu(1).transpose(1, 2)) / own.shape[1]
        ctx.save_for_backward(own, other, mean)
        return mean, covariance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_covariance: Tensor) -> tuple[Tensor | None, Tensor | None]:
        own, other, mean = ctx.saved_tensors
        slope = (of_covariance + of_covariance.transpose(1, 2)) / own.shape[1]
        start = (of_mean / own.shape[1])[:, None] - mean[:, None] @ slope
        parts = zip(slope.split((own.shape[2], other.shape[2]), dim=2), start.split((own.shape[2], other.shape[2]), dim=2), strict=True)
        found = [_gradient(own, other, *part) if needed else None for part, needed in zip(parts, ctx.needs_input_grad, strict=True)]
        return found[0], found[1]


def _gradient(own: Tensor, other: Tensor, slope: Tensor, start: Tensor) -> Tensor:
    from_own, from_other = slope.split((own.shape[2], other.shape[2]), dim=1)
    return torch.bmm(own, from_own).baddbmm_(other, from_other).add_(start)


def moments(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [B, K + L] and covariance [B, K + L, K + L] over the n rows of both sides joined, [B, n, K] and [B, n, L], in float32."""
    mean, covariance = _Moments.apply(own, other)
    return mean, covariance


def variances(weight: Tensor, covariance: Tensor) -> Tensor:
    """The variances [B, C] of what weights [B, C, K] make of rows with a covariance [B, K, K]."""
    fixed = weight.detach()
    return (fixed @ covariance * (2 * weight - fixed)).sum(dim=2)  # the whole gradient, as it is symmetric, with a product less
