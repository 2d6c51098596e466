"""A projection of features and the maximum in each cell, of which nothing is kept at full size."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, max_pool2d

from stages.losses.features.moments import CACHED


class _PooledProjection(torch.autograd.Function):
    """Only the position that is a cell's maximum has a gradient, so the gradients are sums over few rows instead of products of all."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int], pool: int) -> Tensor:
        height, width = size
        cell = min(pool, height), min(pool, width)
        last = height // cell[0] * cell[0]
        lines = max(1, CACHED // (width * cell[0])) * cell[0] if rows.device.type == "cpu" else last
        values, places = [], []
        for first in range(0, last, lines):
            projected = rows[:, first * width : min(first + lines, last) * width] @ weight.t()
            maps = projected.reshape(len(rows), -1, width, len(weight)).permute(0, 3, 1, 2)
            found, place = max_pool2d(maps, cell, return_indices=True)
            values.append(found.float())
            places.append(place + first * width)
        ctx.save_for_backward(rows, weight, torch.cat(places, dim=2).flatten(2))
        return torch.cat(values, dim=2).flatten(2) + bias[:, None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, places = ctx.saved_tensors
        batch, count, channels = rows.shape
        first = torch.arange(batch, device=rows.device) * count
        found, at = (part.transpose(0, 1).flatten(1) for part in (gradient, places + first[:, None, None]))
        of_weight = embedding_bag(at, rows.reshape(-1, channels), per_sample_weights=found, mode="sum")
        of_rows = _scattered(found, at, weight, batch * count).view_as(rows) if ctx.needs_input_grad[0] else None
        return of_rows, of_weight, found.sum(dim=1), None, None


def _scattered(found: Tensor, at: Tensor, weight: Tensor, count: int) -> Tensor:
    """Rows [count, C], each the sum of `found` [P, N] times the rows p of `weight` [P, C] for all that are at it."""
    places, order = at.flatten().sort(stable=True)
    starts = torch.searchsorted(places, torch.arange(count, device=at.device))
    return embedding_bag(order // at.shape[1], weight, starts, per_sample_weights=found.flatten()[order], mode="sum")


def pooled_projection(rows: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int], pool: int) -> Tensor:
    """Max-pooled projections [B, P, N] in float32 of rows [B, H * W, C] in float32.

    Args:
        weight: [P, C]; bias: [P].
        size: height and width.
        pool: height and width of a cell; a shorter side is pooled entirely.
    """
    pooled: Tensor = _PooledProjection.apply(rows, weight, bias, size, pool)
    return pooled
