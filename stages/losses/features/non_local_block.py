"""The relation module: each position plus what it draws from all others, by the similarity of their projections.

Wang et al., "Non-local Neural Networks", CVPR 2018, as Zhang & Ma use it (see stages/losses/non_local.py).

Departures: the relation of dot products has no softmax, so (theta phi^T / N) g is theta (phi^T g / N), the same numbers up to
rounding, and theta is itself a projection of the features. So everything that a position draws is one matrix, computed per
image, times its own features: cost and memory are linear in the number of positions, and neither theta nor what is drawn is ever
computed. The batch norm, too, is a function of mean and covariance of the features.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.losses.features.moments import variances
from stages.losses.features.pooled_projection import pooled_projection
from stages.processes import mean_with_gradient

Relation = Literal["dot_product", "embedded_gaussian"]


EPSILON = 1e-5
"""Added to a variance."""


class Drawn(NamedTuple):
    """What each of n positions draws, `weight` times `rows` plus `bias`: rows [B, n, K], weight [B, C, K], bias [B, C].

    The first C channels of the rows are the features themselves.
    """

    rows: Tensor
    weight: Tensor
    bias: Tensor


class NonLocalBlock(nn.Module):
    """Computes what is added to features [B, C, H, W], which are also given as rows [B, H * W, C]; initially nothing.

    Args:
        inner: channels of the projections.
        pool: size of the max-pooling of phi and g; a shorter side is pooled entirely.
        relation: dot products, or their softmax over the pooled positions.
        batch_norm: whether what is drawn passes a batch norm whose scale starts at 0; otherwise the last projection starts at 0.
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

    def forward(self, features: Tensor, rows: Tensor) -> Drawn:
        """What is drawn, before the batch norm if there is one; with dot products, the result's `rows` are the given ones themselves."""
        phi, g = self._pooled(features, rows)
        theta, bias = (_matrix(self.theta), self.theta.bias)
        out, shift = (_matrix(self.out), self.out.bias)
        assert bias is not None
        assert shift is not None
        with torch.autocast(features.device.type, enabled=False):  # products summed over all positions overflow half precision
            if self.relation == "dot_product":
                drawn = out @ relation_matrix(phi, g)
                return Drawn(rows, drawn @ theta, drawn @ bias + shift)
            query, key, value = ((rows @ theta.t() + bias)[:, None], phi.transpose(1, 2)[:, None], g.transpose(1, 2)[:, None])
            seen = functional.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]
            weight = functional.pad(out, (rows.shape[2], 0)).expand(len(rows), -1, -1)
            return Drawn(torch.cat((rows, seen), dim=2), weight, shift.expand(len(rows), -1))

    def related(self, drawn: Drawn, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [B, C, K] and bias [B, C] of the features plus what they draw, given mean and covariance of its rows."""
        weight, bias = drawn.weight, drawn.bias
        if self.norm is not None:
            weight, bias = self.norm(weight, bias, mean, covariance)
        return weight + torch.eye(*weight.shape[1:], dtype=weight.dtype, device=weight.device), bias

    def _pooled(self, features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Phi and g, each [B, inner, N]."""
        weight = torch.cat((_matrix(self.phi), _matrix(self.g)))
        bias = torch.cat((self.phi.bias, self.g.bias))  # type: ignore[arg-type]
        size = (features.shape[2], features.shape[3])
        phi, g = pooled_projection(rows, weight, bias, size, self.pool).chunk(2, dim=1)
        return phi, g


def relation_matrix(phi: Tensor, g: Tensor) -> Tensor:
    """The matrix [B, C, C], from phi and g [B, C, N], that turns theta into what is drawn from N positions."""
    return g @ phi.transpose(1, 2) / phi.shape[2]


def _matrix(projection: nn.Conv2d) -> Tensor:
    return projection.weight.flatten(1)


class _BatchNorm(nn.Module):
    """Normalization by the batch's statistics over all processes; its scale starts at 0. It is only trained: it keeps no running ones.

    It never sees what it normalizes: mean and variance of w x + b are w mean(x) + b and w cov(x) w^T.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, weight: Tensor, bias: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """The weight [B, C, K] and bias [B, C] that include the normalization, given mean and covariance of the rows [B, n, K]."""
        own_means = (weight @ mean[:, :, None])[..., 0] + bias
        center = mean_with_gradient(own_means.mean(dim=0))
        variance = mean_with_gradient((variances(weight, covariance) + (own_means - center).square()).mean(dim=0))
        scale = self.weight * (variance + EPSILON).rsqrt()
        return weight * scale[:, None], scale * (bias - center) + self.bias
