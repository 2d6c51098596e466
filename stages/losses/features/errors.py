"""Distances between two feature maps, as one scalar; all have a finite gradient at zero difference."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm


class _WeightedSquares(torch.autograd.Function):
    """Autograd's own gradient would write three tensors of full size instead of one."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(difference, weight)
        total: Tensor = (vector_norm(difference, dim=1, keepdim=True).square() * weight).sum()
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        difference, weight = ctx.saved_tensors
        return difference * (2 * gradient * weight), None


def _weighted_squares(difference: Tensor, weight: Tensor) -> Tensor:
    total: Tensor = _WeightedSquares.apply(difference, weight)
    return total


def mean_square(difference: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean square of [B, C, H, W], weighted per position by [B, 1, H, W]; no gradient reaches the weight."""
    if weight is None:
        return difference.square().mean()
    return _weighted_squares(difference, weight) / difference.numel()


def norm(difference: Tensor, weight: Tensor | None = None) -> Tensor:
    """The Euclidean norm over all values; squares are weighted per position as in `mean_square`.

    Rows are summed first: torch's sum of millions of squares in one go is accurate to only three digits.
    """
    if weight is not None:
        return root(_weighted_squares(difference, weight))
    total: Tensor = vector_norm(vector_norm(difference, dim=1 if difference.ndim == 4 and difference.stride(1) == 1 else -1))
    return total


def root(square: Tensor) -> Tensor:
    """The square root of a scalar; 0, with gradient 0, of one that is not above 0. What is not a number stays so."""
    none = square <= 0
    return torch.where(none, 1, square).sqrt() * ~none
