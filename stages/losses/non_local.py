"""Non-local distillation: the relations between positions.

Zhang & Ma, "Structured Knowledge Distillation for Accurate and Efficient Object Detection", IEEE TPAMI 2023,
https://doi.org/10.1109/TPAMI.2023.3300470; the block is of Wang et al., "Non-local Neural Networks", CVPR 2018.

Departures: features are divided by their root mean square per image and level and the squared error is averaged, so that one
weight serves every batch size, resolution and channel count; the block's last convolution starts at zero instead of being
followed by a batch norm that does, so that it is the identity at first without statistics over the batch. As there is no
softmax, the relation is applied as theta (phi^T g / N), equal to (theta phi^T / N) g at a cost linear in the positions.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from stages.attention_maps import standardized
from stages.detectors import Outputs, Target
from stages.levels import LevelPair, channels, match, pairs
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

    def __init__(self, widths: Sequence[tuple[int, int]], levels: tuple[LevelPair, ...], reduction: int, pools: Sequence[int]) -> None:
        super().__init__()
        self.levels = levels
        sizes = [pools[min(index, len(pools) - 1)] for index in range(len(levels))]
        self.own = nn.ModuleList(NonLocalBlock(c, max(1, c // reduction), p) for (c, _), p in zip(widths, sizes, strict=True))
        self.other = nn.ModuleList(NonLocalBlock(c, max(1, c // reduction), p) for (_, c), p in zip(widths, sizes, strict=True))
        self.adapters = nn.ModuleList(nn.Conv2d(own, other, 1) for own, other in widths)

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The term "relation", the mean over levels."""
        modules = zip(self.own, self.other, self.adapters, pairs(student, teacher, self.levels), strict=True)
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
    missing: Literal["skip", "interpolate"] = "skip",
) -> Loss:
    """Relation modules on both sides, matched after a 1x1 adapter.

    Args:
        reduction: the projections have channels / reduction channels.
        pools: max-pooling of phi and g at each level, finest first; the last serves all further levels.
        strides: the student's levels that learn; null for all that can.
        missing: what becomes of a level whose stride the teacher lacks: it is left out, or learns from the nearest one, resized.
    """
    levels = match(student, teacher, strides, missing)
    return NonLocal(channels(student, teacher, levels), levels, reduction, pools)
