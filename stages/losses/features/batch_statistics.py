"""Statistics of channels over a batch, the same in one process and in many."""

import torch
from torch import Tensor, nn

from stages.processes import mean_over_processes, mean_with_gradient

MOMENTUM = 0.1
"""Share of a batch in a running mean, as in batch normalization."""


def standardized_over_batch(features: Tensor, epsilon: float) -> Tensor:
    """Each channel of features [B, C, H, W] with mean 0 and variance 1 over all images of all processes; epsilon is added to the variance.

    A channel that is the same everywhere becomes 0, with a finite gradient.
    """
    dims = (0, 2, 3)
    centered = features - mean_with_gradient(features.mean(dim=dims, keepdim=True))
    variance = mean_with_gradient(centered.square().mean(dim=dims, keepdim=True))
    return centered * (variance + epsilon).rsqrt()


class Margin(nn.Module):
    """How far below zero each channel usually is where it is negative; 0 for channels that never are.

    A running mean, saved with the loss's weights.
    """

    mean: Tensor
    seen: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("seen", torch.zeros(channels))

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """The margins [1, C, 1, 1] after features [B, C, H, W] have been counted."""
        sums = features.clamp(max=0).sum(dim=(0, 2, 3)), (features < 0).to(features.dtype).sum(dim=(0, 2, 3))
        total, count = mean_over_processes(torch.stack(sums))
        now = total / count.clamp(min=1e-6)
        moved = torch.where(self.seen > 0, torch.lerp(self.mean, now, MOMENTUM), now)
        self.mean.copy_(torch.where(count > 0, moved, self.mean))
        self.seen.copy_(torch.maximum(self.seen, (count > 0).to(self.seen.dtype)))
        return self.mean[None, :, None, None].clone()
