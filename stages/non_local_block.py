"""The relation module: each position plus what it draws from all others by the likeness of their projections.

Wang et al., "Non-local Neural Networks", CVPR 2018, as Zhang & Ma use it (see stages/losses/non_local.py).

Departures: the relation of dot products has no softmax, so (theta phi^T / N) g is computed as theta (phi^T g / N): the same
numbers up to rounding at a cost and a memory linear in the positions. The three projections are one convolution, so that the
features are read once and their gradient is written once.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.distribution import mean_with_gradient

Relation = Literal["dot_product", "embedded_gaussian"]


EPSILON = 1e-5
"""Added to a variance."""


class NonLocalBlock(nn.Module):
    """What is added to features [B, C, H, W]: `projection` times `drawn`; nothing at first.

    Args:
        inner: channels of the projections.
        pool: phi and g are max-pooled by so much, or by the whole of a side that is shorter.
        relation: dot products, or the softmax of them over the pooled positions.
        batch_norm: whether what is drawn passes one whose scale starts at 0; else the last projection starts at 0.
    """

    def __init__(self, channels: int, inner: int, pool: int, relation: Relation = "dot_product", *, batch_norm: bool = False) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)
        self.pool = pool
        self.relation = relation
        self.norm = _BatchNorm(channels) if batch_norm else None
        if not batch_norm:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def drawn(self, features: Tensor) -> Tensor:
        """What each position draws from all others, [B, inner, H, W], before the last projection."""
        theta, pooled = self._projected(features)
        phi, g = pooled.flatten(2).chunk(2, dim=1)
        if self.relation == "dot_product":
            drawn = relate(theta.flatten(2), phi, g)
        else:
            query, key, value = (x.flatten(2).transpose(1, 2)[:, None] for x in (theta, phi, g))
            drawn = functional.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0].transpose(1, 2)
        spread: Tensor = drawn.unflatten(2, features.shape[-2:])
        return spread

    def projection(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [C, inner] and bias [C] of the last projection, the batch norm behind it folded in."""
        weight, bias = self.out.weight.flatten(1), self.out.bias
        assert bias is not None
        return (weight, bias) if self.norm is None else self.norm.fold(drawn, weight, bias)

    def _projected(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Theta [B, inner, H, W], and phi above g, pooled [B, 2 * inner, h, w]."""
        parts = (self.theta, self.phi, self.g)
        weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])  # type: ignore[misc]
        projected = functional.conv2d(features, weight, bias).float()
        inner = self.theta.out_channels
        theta, others = projected.split((inner, 2 * inner), dim=1)
        height, width = features.shape[-2:]
        return theta, functional.max_pool2d(others, (min(self.pool, height), min(self.pool, width)))


def relate(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """What each of n positions draws from N: theta [B, C, n], phi and g [B, C, N], result [B, C, n]."""
    with torch.autocast(theta.device.type, enabled=False):  # products summed over all positions overflow half precision
        return (g @ phi.transpose(1, 2) / phi.shape[2]) @ theta


class _BatchNorm(nn.Module):
    """Normalization by the statistics of the batch over all processes, its scale starting at 0; only trained, it keeps no running ones.

    It never sees the projection that it normalizes: mean and variance of w y + b are w mean(y) + b and w cov(y) w^T.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def fold(self, drawn: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The projection [C, inner], [C] of `drawn` [B, inner, H, W] that also normalizes."""
        rows = drawn.float().transpose(0, 1).flatten(1)
        mean = mean_with_gradient(rows.mean(dim=1))
        centered = rows - mean[:, None]
        covariance = mean_with_gradient(centered @ centered.t() / rows.shape[1])
        scale = self.weight * ((weight @ covariance * weight).sum(dim=1) + EPSILON).rsqrt()
        return weight * scale[:, None], self.bias + scale * (bias - (weight @ mean + bias))
