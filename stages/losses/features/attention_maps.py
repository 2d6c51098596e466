"""Where and in which channels a detector's features are strong.

B images, C channels, H x W positions; all functions treat each image separately, except standardization over the batch.
"""

import torch
from torch import Tensor

from stages.losses.features.moments import CACHED
from stages.losses.features.options import Statistics

FLOOR = 1e-3
"""Fraction of the channels' mean variance that is added to each channel's, so that channels that hardly vary are not amplified."""


def standardized(features: Tensor, statistics: Statistics = "image") -> Tensor:
    """Features [B, C, H, W], each channel normalized to mean 0 and standard deviation 1 over the positions of its image, or of all.

    What is the same everywhere is removed, and weak channels count as much as strong ones: little is left of a background that
    fills the image, and objects stand out. All values are 0 if nothing varies, as in a level of a single position. Over a batch,
    images in which a channel is weak stay weaker in it than others.
    """
    dims = (0, 2, 3) if statistics == "batch" else (2, 3)
    centered = features - features.mean(dim=dims, keepdim=True)
    variance = centered.square().mean(dim=dims, keepdim=True)
    return centered * (variance + FLOOR * variance.mean(dim=1, keepdim=True) + 1e-12).rsqrt()


def spatial_attention(features: Tensor) -> Tensor:
    """The mean absolute value over channels, [B, 1, H, W]."""
    if torch.is_grad_enabled() and features.requires_grad:
        return channel_mean(features.abs())
    lines = max(1, CACHED // features.shape[3])
    return torch.cat([channel_mean(some.abs()) for some in features.split(lines, dim=2)], dim=2)  # no copy at full size


def channel_attention(features: Tensor) -> Tensor:
    """The mean absolute value over positions, [B, C, 1, 1]."""
    return position_mean(features.abs())


def channel_mean(features: Tensor) -> Tensor:
    """The mean over channels, [B, 1, H, W]; divided after the sum, so that the gradient is not written out at full size first."""
    return features.sum(dim=1, keepdim=True) / features.shape[1]


def position_mean(features: Tensor) -> Tensor:
    """The mean over positions, [B, C, 1, 1], also divided after the sum."""
    return features.sum(dim=(2, 3), keepdim=True) / features[0, 0].numel()


def mask(attention: Tensor, temperature: float) -> Tensor:
    """Softmax of a spatial [B, 1, H, W] or channel attention [B, C, 1, 1] / temperature over a whole image, scaled to average 1."""
    flat = attention.flatten(1)
    return ((flat / temperature).softmax(dim=1) * flat.shape[1]).reshape(attention.shape)


def summed_mask(own: Tensor, other: Tensor, temperature: float) -> Tensor:
    """The mask of two networks' summed attention, as in the paper's text."""
    return mask(own + other, temperature)


def averaged_mask(own: Tensor, other: Tensor, temperature: float) -> Tensor:
    """The mean of two networks' masks, as in the authors' code."""
    return (mask(own, temperature) + mask(other, temperature)) / 2
