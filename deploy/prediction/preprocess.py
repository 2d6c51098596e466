"""From an image to the network's input and back: the one preprocessing for training, measurement and serving."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.contract import Preprocessing

_RESAMPLE = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


Size = tuple[int, int]
"""Width and height in px."""


@dataclass(frozen=True)
class Placement:
    """Position of an image of width x height px in the network's input: scaled, then shifted by (left, top) px."""

    scale_x: float
    scale_y: float
    left: int
    top: int
    width: int
    height: int

    def place(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Boxes [N, 4] (x1, y1, x2, y2) in px of the image, to px of the network's input."""
        scale, shift = self._terms()
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale + shift

    def undo(self, boxes: NDArray[np.floating], *, clip: bool = True) -> NDArray[np.float64]:
        """Boxes [N, 4] (x1, y1, x2, y2) in px of the network's input, to px of the image, clipped to it."""
        scale, shift = self._terms()
        found = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - shift) / scale
        return np.clip(found, 0, (self.width, self.height, self.width, self.height)) if clip else found

    @property
    def fitted(self) -> tuple[int, int]:
        """Width and height of the scaled image, in px of the network's input."""
        return round(self.width * self.scale_x), round(self.height * self.scale_y)

    def _terms(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale = np.array([self.scale_x, self.scale_y] * 2, dtype=np.float64)
        return scale, np.array([self.left, self.top] * 2, dtype=np.float64)


def apply(image: NDArray[np.uint8], preprocessing: Preprocessing, size: Size | None = None) -> tuple[NDArray[np.float32], Placement]:
    """The network's input [3, H, W] for one image [h, w, 3] RGB, and the image's position in it.

    Args:
        size: width and height of the image before it was decoded at a reduced size; boxes are in px of it.
    """
    fitted, placement = fit(image, preprocessing, size)
    return normalized(fitted, preprocessing), placement


def normalized(fitted: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The network's input [3, H, W] of what `fit` made of an image."""
    if preprocessing.color == "bgr":
        fitted = fitted[..., ::-1]
    tensor = np.empty((3, preprocessing.height, preprocessing.width), dtype=np.float32)
    for channel, (mean, std) in enumerate(zip(preprocessing.mean, preprocessing.std, strict=True)):
        np.multiply(fitted[..., channel], np.float32(1 / (255 * std)), out=tensor[channel])
        tensor[channel] -= np.float32(mean / std)
    return tensor


def fit(image: NDArray[np.uint8], preprocessing: Preprocessing, size: Size | None = None) -> tuple[NDArray[np.uint8], Placement]:
    """The image [h, w, 3] resized and padded to the network's size [H, W, 3], still 0 to 255 and RGB; `size` as for `apply`."""
    placement = place(*(size or _size(image)), preprocessing)
    across, down = placement.fitted
    resized = image if (across, down) == _size(image) else _resize(image, (across, down), preprocessing)
    if (across, down) == (preprocessing.width, preprocessing.height):
        return resized, placement
    canvas = np.full((preprocessing.height, preprocessing.width, 3), preprocessing.pad_value, dtype=np.uint8)
    canvas[placement.top : placement.top + down, placement.left : placement.left + across] = resized
    return canvas, placement


def shrink(image: NDArray[np.uint8], preprocessing: Preprocessing, room: float = 1.0, size: Size | None = None) -> NDArray[np.uint8]:
    """The image [h, w, 3] reduced to at most `room` times the px that the network sees of it; unchanged if it is no larger.

    Args:
        size: as for `apply`.
    """
    across, down = place(*(size or _size(image)), preprocessing).fitted
    smaller = min(image.shape[1], round(across * room)), min(image.shape[0], round(down * room))
    return image if smaller == _size(image) else _resize(image, smaller, preprocessing)


def fit_masks(masks: NDArray[np.bool_], placement: Placement, preprocessing: Preprocessing) -> NDArray[np.bool_]:
    """Masks [N, h, w] of an image, resized to [N, H, W] over the network's input: nearest px, False in the padding."""
    across, down = placement.fitted
    fitted = np.zeros((len(masks), preprocessing.height, preprocessing.width), np.bool_)
    fitted[:, placement.top : placement.top + down, placement.left : placement.left + across] = resize_masks(masks, (down, across))
    return fitted


def resize_masks(masks: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks [N, h, w] resized to (height, width), by nearest px."""
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, masks.shape[1:], strict=True))
    return masks if size == masks.shape[1:] else masks.take(columns, axis=2).take(rows, axis=1)


def place(width: int, height: int, preprocessing: Preprocessing) -> Placement:
    """The position of an image of width x height px.

    `letterbox` and `shortest_edge` keep the aspect ratio, each side rounded to whole px, at least 1. A letterboxed image is centered;
    if the padding is odd, the smaller half is on the left or the top. `shortest_edge` is at the top left.
    """
    if preprocessing.resize == "stretch":
        size = preprocessing.width, preprocessing.height
    else:
        scale = min(preprocessing.width / width, preprocessing.height / height)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = (preprocessing.width - size[0]) // 2, (preprocessing.height - size[1]) // 2
    if preprocessing.resize == "shortest_edge":
        left = top = 0
    return Placement(size[0] / width, size[1] / height, left, top, width, height)


def _size(image: NDArray[np.uint8]) -> Size:
    return image.shape[1], image.shape[0]


def _resize(image: NDArray[np.uint8], size: Size, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(size, _RESAMPLE[preprocessing.interpolation]))
