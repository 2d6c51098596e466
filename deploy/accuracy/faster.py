"""The slowest corruptions of imagecorruptions-imaug 1.1.5, equal to the library's in every pixel and several times as fast.

Each function takes an image [H, W, 3] in 8 bits and a severity from 1 to 5, draws from NumPy's global generator what the library draws, in
its order, and returns the corrupted image. Constants are the benchmark's.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.accuracy import pixel_loops

Pixels = NDArray[np.uint8]
_FLASH = (0.1, 0.2, 0.3, 0.4, 0.5)
_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
_ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
_GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
_ELASTIC = (250 * 0.05, 250 * 0.065, 250 * 0.085, 250 * 0.1, 250 * 0.12)
_SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)


def brightness(image: Pixels, severity: int) -> Pixels:
    """Brighter."""
    out = np.empty_like(image)
    pixel_loops.brighten(image, _FLASH[severity - 1], out)
    return out


def contrast(image: Pixels, severity: int) -> Pixels:
    """Nearer to the mean of each channel, so that the result depends on a pixel's own value only."""
    means = np.mean(image / 255.0, axis=(0, 1))
    values = np.arange(256)[:, None] / 255.0
    table = (np.clip((values - means) * _CONTRAST[severity - 1] + means, 0, 1) * 255).astype(np.uint8)
    return np.stack([table[image[..., channel], channel] for channel in range(3)], axis=-1)


def motion_blur(image: Pixels, severity: int) -> Pixels:
    """Smeared towards the left or right."""
    radius, sigma = _MOTION[severity - 1]
    angle = np.random.uniform(-45, 45)  # noqa: NPY002
    return np.clip(_smeared(_rows(image), 3, radius, sigma, angle), 0, 255).astype(np.uint8).reshape(image.shape)


def zoom_blur(image: Pixels, severity: int) -> Pixels:
    """The mean of several enlargements."""
    end, step = _ZOOM[severity - 1]
    factors = np.arange(1, end, step)
    plain = (image / 255.0).astype(np.float32)
    total = np.zeros_like(plain)
    for factor in factors:
        _add_zoomed(_rows(total), _rows(plain), 3, float(factor))
    return np.asarray(np.clip((plain + total) / (len(factors) + 1), 0, 1) * 255, np.uint8)


def glass_blur(image: Pixels, severity: int, seed: int) -> Pixels:
    """Blurred, locally shuffled, and blurred again."""
    sigma, reach, times = _GLASS[severity - 1]
    weights = _gaussian(sigma, 4.0)
    found = (pixel_loops.blurred(_rows(image / 255.0), 3, weights, weights, False) * 255).astype(np.uint8).reshape(image.shape)
    count = times * max(image.shape[0] - 2 * reach, 0) * max(image.shape[1] - 2 * reach, 0)
    pixel_loops.shuffle(found, reach, np.random.RandomState(seed).randint(-reach, reach, size=(count, 2)))
    again = pixel_loops.blurred(_rows(found / 255.0), 3, weights, weights, False)
    return np.asarray(np.clip(again, 0, 1) * 255, np.uint8).reshape(image.shape)


def elastic_transform(image: Pixels, severity: int) -> Pixels:
    """Locally displaced."""
    height, width = image.shape[:2]
    most = height * 0.005
    down, across = (_gaussian(0.01 * side, 3.0) for side in (height, width))
    right, below = (
        (pixel_loops.blurred(np.random.uniform(-most, most, size=(height, width)), 1, down, across, True) * _ELASTIC[severity - 1]).astype(  # noqa: NPY002
            np.float32
        )
        for _ in range(2)
    )
    out = np.empty_like(image)
    pixel_loops.displace(np.asarray(image, np.float32) / np.float32(255), below, right, out)
    return out


def snow(image: Pixels, severity: int) -> Pixels:
    """Whiter, and flakes that fall."""
    import cv2

    mean, spread, zoom, least, radius, sigma, keep = _SNOW[severity - 1]
    height, width = image.shape[:2]
    noise = np.random.normal(size=(height, width), loc=mean, scale=spread)  # noqa: NPY002
    layer = _zoomed(noise, float(zoom))
    layer[layer < least] = 0
    layer = _smeared(np.clip(layer, 0, 1), 1, int(radius), sigma, np.random.uniform(-135, -45))  # noqa: NPY002
    flakes = (np.round(layer * 255).astype(np.uint8) / 255.0)[:height, :width, None]
    plain = np.asarray(image, np.float32) / np.float32(255)
    gray = cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY)[..., None]
    plain = keep * plain + (1 - keep) * np.maximum(plain, gray * 1.5 + 0.5)
    return np.asarray(np.clip(plain + flakes + np.rot90(flakes, k=2), 0, 1) * 255, np.uint8)


FASTER: dict[str, Callable[..., Pixels]] = {
    one.__name__: one for one in (brightness, contrast, motion_blur, zoom_blur, glass_blur, elastic_transform, snow)
}


def _rows(image: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(image).reshape(image.shape[0], -1)


def _gaussian(sigma: float, truncate: float) -> NDArray[np.float64]:
    """scipy's weights."""
    reach = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-reach, reach + 1) ** 2)
    return np.asarray(weights / weights.sum())


def _add_zoomed(total: NDArray[Any], rows: NDArray[Any], channels: int, factor: float) -> None:
    """Add the middle of the image, enlarged by a factor to at least its size."""
    height, width = rows.shape[0], rows.shape[1] // channels
    down, across = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - down) // 2, (width - across) // 2
    middle = np.ascontiguousarray(rows[top : top + down, left * channels : (left + across) * channels])
    pixel_loops.add_zoomed(middle, channels, round(down * factor), round(across * factor), total)


def _zoomed(rows: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """The middle of a picture with one channel, enlarged by a factor to at least its size."""
    height, width = rows.shape
    total = np.zeros((round(math.ceil(height / factor) * factor), round(math.ceil(width / factor) * factor)))
    _add_zoomed(total, rows, 1, factor)
    return total


def _smeared(rows: NDArray[Any], channels: int, radius: int, sigma: float, angle: float) -> NDArray[np.float64]:
    """Copies along a line at an angle in degrees, weighted by half of a bell curve."""
    count, height, width = radius * 2 + 1, rows.shape[0], rows.shape[1] // channels
    bell = np.exp(-((np.arange(count) - 0) ** 2) / (2 * (sigma**2))) / (np.sqrt(2 * np.pi) * sigma)
    weights = bell / np.sum(bell)
    down, right = count * np.sin(np.deg2rad(angle)), count * np.cos(np.deg2rad(angle))
    length = math.hypot(down, right)
    steps = [(-math.ceil(i * down / length - 0.5), -math.ceil(i * right / length - 0.5)) for i in range(count)]
    beyond = next((i for i, (dy, dx) in enumerate(steps) if abs(dy) >= height or abs(dx) >= width), count)
    return np.asarray(pixel_loops.moved(rows, channels, weights[:beyond], np.array(steps[:beyond], np.int64)))
