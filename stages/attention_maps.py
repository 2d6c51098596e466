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
    return channel_mean(features.abs())


def channel_attention(features: Tensor) -> Tensor:
    """The mean absolute value over positions, [B, C, 1, 1]."""
    return position_mean(features.abs())


def channel_mean(features: Tensor) -> Tensor:
    """The mean over channels, [B, 1, H, W]; divided after the sum, so that the gradient is not written out at full size first."""
    return features.sum(dim=1, keepdim=True) / features.shape[1]


def position_mean(features: Tensor) -> Tensor:
    """The mean over positions, [B, C, 1, 1], likewise."""
    return features.sum(dim=(2, 3), keepdim=True) / features[0, 0].numel()


def mask(attention: Tensor, temperature: float) -> Tensor:
    """Softmax of a spatial [B, 1, H, W] or channel attention [B, C, 1, 1] / temperature over all of an image, averaging 1."""
    flat = attention.flatten(1)
    return ((flat / temperature).softmax(dim=1) * flat.shape[1]).reshape(attention.shape)


def summed_mask(own: Tensor, other: Tensor, temperature: float) -> Tensor:
    """The mask of two networks' summed attention, as the paper's text has it."""
    return mask(own + other, temperature)


def averaged_mask(own: Tensor, other: Tensor, temperature: float) -> Tensor:
    """The mean of two networks' masks, as the authors' code has it."""
    return (mask(own, temperature) + mask(other, temperature)) / 2
