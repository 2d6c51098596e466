"""The relation module: each position plus what it draws from all others, by the similarity of their projections.

Wang et al., "Non-local Neural Networks", CVPR 2018, as Zhang & Ma use it (see stages/losses/non_local.py).

Departures: the relation of dot products has no softmax, so (theta phi^T / N) g is theta (phi^T g / N), the same numbers up to
rounding, and theta is itself a projection of the features. So everything that a position draws is one matrix, computed per
image, times its own features: cost and memory are linear in the number of positions, and neither theta nor what is drawn is ever
computed.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.processes import mean_with_gradient

Relation = Literal["dot_product", "embedded_gaussian"]


EPSILON = 1e-5
"""Added to a variance."""


class Added(NamedTuple):
    """What is added to each of n positions, `weight` times `rows` plus `bias`: rows [B, n, K], weight [B, C, K], bias [B, C]."""

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

    def forward(self, features: Tensor, rows: Tensor) -> Added:
        """With dot products, the result's `rows` are the given ones themselves."""
        phi, g = self._pooled(features)
        theta, bias = (_matrix(self.theta), self.theta.bias)
        out, shift = (_matrix(self.out), self.out.bias)
        assert bias is not None
        assert shift is not None
        with torch.autocast(features.device.type, enabled=False):  # products summed over all positions overflow half precision
            if self.relation == "dot_product":
                drawn = out @ relation_matrix(phi, g)
                added = Added(rows, drawn @ theta, drawn @ bias + shift)
            else:
                query, key, value = ((rows @ theta.t() + bias)[:, None], phi.transpose(1, 2)[:, None], g.transpose(1, 2)[:, None])
                seen = functional.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]
                batch = len(rows)
                added = Added(seen, out.expand(batch, -1, -1), shift.expand(batch, -1))
            return added if self.norm is None else self.norm(added)

    def _pooled(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Phi and g, each [B, inner, N]."""
        weight = torch.cat((self.phi.weight, self.g.weight))
        bias = torch.cat((self.phi.bias, self.g.bias))  # type: ignore[arg-type]
        height, width = features.shape[-2:]
        pooled = functional.max_pool2d(functional.conv2d(features, weight, bias).float(), (min(self.pool, height), min(self.pool, width)))
        phi, g = pooled.flatten(2).chunk(2, dim=1)
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

    def forward(self, added: Added) -> Added:
        """The same, normalized."""
        rows, weight, bias = added
        means = rows.mean(dim=1, keepdim=True)
        centered = rows - means
        covariance = centered.transpose(1, 2) @ centered / rows.shape[1]
        own_means = (weight @ means.transpose(1, 2))[..., 0] + bias
        mean = mean_with_gradient(own_means.mean(dim=0))
        within = (weight @ covariance * weight).sum(dim=2)
        variance = mean_with_gradient((within + (own_means - mean).square()).mean(dim=0))
        scale = self.weight * (variance + EPSILON).rsqrt()
        return Added(rows, weight * scale[:, None], scale * (bias - mean) + self.bias)
