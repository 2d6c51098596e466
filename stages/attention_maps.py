"""Where and in which channels a detector's features are strong.

B images, C channels, H x W positions; all functions work on each image alone.
"""

from torch import Tensor


def standardized(features: Tensor) -> Tensor:
    """Features [B, C, H, W] divided by their root mean square over each image; all zero where they are."""
    power = features.square().mean(dim=(1, 2, 3), keepdim=True)
    return features * (power + 1e-12).rsqrt()


def spatial_attention(features: Tensor) -> Tensor:
    """The mean absolute value over channels, [B, 1, H, W]."""
    return features.abs().mean(dim=1, keepdim=True)


def channel_attention(features: Tensor) -> Tensor:
    """The mean absolute value over positions, [B, C, 1, 1]."""
    return features.abs().mean(dim=(2, 3), keepdim=True)


def spatial_mask(attention: Tensor, temperature: float) -> Tensor:
    """Softmax of a spatial attention [B, 1, H, W] / temperature over positions, as weights averaging 1."""
    flat = attention.flatten(1)
    return ((flat / temperature).softmax(dim=1) * flat.shape[1]).reshape(attention.shape)


def channel_mask(attention: Tensor, temperature: float) -> Tensor:
    """Softmax of a channel attention [B, C, 1, 1] / temperature over channels, as weights averaging 1."""
    return (attention / temperature).softmax(dim=1) * attention.shape[1]
