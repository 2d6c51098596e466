"""Non-local distillation: the relations between positions.

Zhang & Ma, "Structured Knowledge Distillation for Accurate and Efficient Object Detection", IEEE TPAMI 2023,
https://doi.org/10.1109/TPAMI.2023.3300470; the block is of Wang et al., "Non-local Neural Networks", CVPR 2018.

Departures: features are divided by their root mean square per image and level and the squared error is averaged, so that one
weight serves every batch size, resolution and channel count; the block's last convolution starts at zero instead of being
followed by a batch norm that does, so that it is the identity at first without statistics over the batch. As there is no
softmax, the relation is applied as theta (phi^T g / N), equal to (theta phi^T / N) g at a cost linear in the positions.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from stages.attention_maps import standardized
from stages.detectors import Outputs, Target
from stages.levels import channels, common_strides, pairs
from stages.losses import Loss, Pyramid


class NonLocalBlock(nn.Module):
    """Each position plus what it draws from all pooled positions by the likeness of their projections.

    [B, C, H, W] to the same shape; the identity at first.
    """

    def __init__(self, channels: int, inner: int, pool: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)
        self.pool = pool
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        pool = min(self.pool, *features.shape[-2:])
        theta = self.theta(features).float().flatten(2)
        phi = functional.max_pool2d(self.phi(features).float(), pool).flatten(2)
        g = functional.max_pool2d(self.g(features).float(), pool).flatten(2)
        context = g @ phi.transpose(1, 2) / phi.shape[2]
        drawn = (context @ theta).reshape(features.shape[0], -1, *features.shape[-2:])
        related: Tensor = features + self.out(drawn)
        return related


class NonLocal(Loss):
    """See `build`."""

    def __init__(self, student: Pyramid, teacher: Pyramid, reduction: int, pools: Sequence[int], chosen: tuple[int, ...] | None) -> None:
        super().__init__()
        self.strides = common_strides(student, teacher, chosen)
        own, other = channels(student, self.strides), channels(teacher, self.strides)
        sizes = [pools[min(index, len(pools) - 1)] for index in range(len(self.strides))]
        self.own = nn.ModuleList(NonLocalBlock(c, max(1, c // reduction), p) for c, p in zip(own, sizes, strict=True))
        self.other = nn.ModuleList(NonLocalBlock(c, max(1, c // reduction), p) for c, p in zip(other, sizes, strict=True))
        self.adapters = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(own, other, strict=True))

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "relation", the mean over levels."""
        modules = zip(self.own, self.other, self.adapters, pairs(student, teacher, self.strides), strict=True)
        terms = [
            (adapter(relate(standardized(own))).float() - relate_teacher(standardized(other)).float()).square().mean()
            for relate, relate_teacher, adapter, (own, other) in modules
        ]
        return {"relation": torch.stack(terms).mean()}


def build(
    student: Pyramid,
    teacher: Pyramid,
    *,
    reduction: Annotated[int, Field(ge=1)] = 2,
    pools: tuple[int, ...] = (4, 2, 2, 1),
    strides: tuple[int, ...] | None = None,
) -> Loss:
    """Relation modules on both sides, matched after a 1x1 adapter.

    Args:
        reduction: the projections have channels / reduction channels.
        pools: max-pooling of phi and g at each level, finest first; the last serves all further levels.
        strides: the levels to learn from; null for all that both pyramids have.
    """
    return NonLocal(student, teacher, reduction, pools, strides)
