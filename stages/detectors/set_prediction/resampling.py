"""Bicubic resizing as matrix products: TensorRT resizes only without antialiasing, ONNX Runtime not in half precision.

Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions on Acoustics, Speech, and Signal Processing 1981,
https://doi.org/10.1109/TASSP.1981.1163711. The slopes and the treatment of borders are torch.nn.functional.interpolate's.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def bicubic(grid: Tensor, height: int, width: int, *, antialias: bool) -> Tensor:
    """A map [H, W, C] resized to [height, width, C], as by interpolate with align_corners=False."""
    rows = torch.tensor(weights(grid.shape[0], height, antialias=antialias).tolist(), dtype=grid.dtype, device=grid.device)
    columns = torch.tensor(weights(grid.shape[1], width, antialias=antialias).tolist(), dtype=grid.dtype, device=grid.device)
    tall = (rows @ grid.flatten(1)).reshape(height, grid.shape[1], -1)
    return columns @ tall


def weights(source: int, target: int, *, antialias: bool) -> NDArray[np.float64]:
    """How much of each of `source` values goes into each of `target` values, [target, source]."""
    found: NDArray[np.float64] = np.zeros((target, source))
    scale = source / target
    slope, spread = (-0.5, max(scale, 1.0)) if antialias else (-0.75, 1.0)
    for place in range(target):
        center = scale * (place + 0.5) - 0.5
        for index in range(math.ceil(center - 2 * spread), math.floor(center + 2 * spread) + 1):
            weight = _cubic(abs(index - center) / spread, slope)
            if antialias and 0 <= index < source:
                found[place, index] = weight
            elif not antialias:
                found[place, min(max(index, 0), source - 1)] += weight
    found /= found.sum(axis=1, keepdims=True)
    return found


def _cubic(distance: float, slope: float) -> float:
    if distance < 1:
        return ((slope + 2) * distance - (slope + 3)) * distance**2 + 1
    if distance < 2:
        return slope * (((distance - 5) * distance + 8) * distance - 4)
    return 0.0
