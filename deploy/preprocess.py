"""From an image file to the network's input and back: the one preprocessing of training, measurement and serving."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deploy.contract import Preprocessing
from deploy.errors import DataError

MAX_PIXELS = 89_478_485  # Pillow's own bound: above it a small file can fill the memory
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")  # none that runs another program to be read

_BOUNDED = tuple(name for name in FORMATS if name != "PPM")
_RUN_LENGTHS = (1, 2)
_SCAN, _MOST_SCANS = b"\xff\xda", 100

Scalar = TypeVar("Scalar", bound=np.generic)

_ORIENTATION = 0x0112
_TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error, zlib.error)
_RESAMPLE = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Placement:
    """Where an image of width x height px lies in the network's input: scaled, then shifted by (left, top) px."""

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


def load_image(source: Path | bytes, *, max_pixels: int = MAX_PIXELS, trusted: bool = True) -> NDArray[np.uint8]:
    """Read an image file, or its bytes, as RGB [H, W, 3], upright.

    Grey is repeated, palettes are looked up, CMYK is converted, 16 bits are divided by 257, transparency lies over black, the
    camera's rotation (EXIF) is applied, of an animation the first frame is taken.

    Args:
        max_pixels: of the file, looked at before anything is decoded.
        trusted: else what few bytes can make take long is refused, too: PPM, BMP with run lengths, JPEG of hundreds of scans.

    Raises:
        DataError: no such file, not an image, damaged, above max_pixels, or of 32-bit pixels whose range is not known.
    """
    return load_oriented(source, max_pixels=max_pixels, trusted=trusted)[0]


def load_oriented(source: Path | bytes, *, max_pixels: int = MAX_PIXELS, trusted: bool = True) -> tuple[NDArray[np.uint8], int]:
    """What load_image gives, and the EXIF orientation, 1 to 8, that was undone: 1 is upright, from 5 on width and height swap.

    Raises:
        DataError: as load_image.
    """
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    formats = FORMATS if trusted else _BOUNDED
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
            if image.width * image.height > max_pixels:
                raise DataError(f"{name}: {image.width} x {image.height} px is above {max_pixels:,}; cut it into tiles")
            if not trusted:
                _refuse_slow(image, source, name)
            image.load()
            orientation = _orientation(image)
            return upright(_to_rgb(image, name), orientation), orientation
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: more than {MAX_PIXELS:,} px; cut it into tiles") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image that can be read; allowed are {', '.join(formats)}") from error
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: cannot be read as an image ({reason})") from error


def _refuse_slow(image: Image.Image, source: Path | bytes, name: str) -> None:
    if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
        raise DataError(f"{name}: BMP with run lengths; save it as PNG")
    if image.format == "JPEG" and isinstance(source, bytes) and source.count(_SCAN) > _MOST_SCANS:
        raise DataError(f"{name}: JPEG of more than {_MOST_SCANS} scans; save it anew")


def apply(image: NDArray[np.uint8], preprocessing: Preprocessing) -> tuple[NDArray[np.float32], Placement]:
    """The network's input [3, H, W] for one image [h, w, 3] RGB, and where the image lies in it."""
    fitted, placement = fit(image, preprocessing)
    if preprocessing.color == "bgr":
        fitted = fitted[..., ::-1]
    tensor = np.empty((3, preprocessing.height, preprocessing.width), dtype=np.float32)
    for channel, (mean, std) in enumerate(zip(preprocessing.mean, preprocessing.std, strict=True)):
        np.multiply(fitted[..., channel], np.float32(1 / (255 * std)), out=tensor[channel])
        tensor[channel] -= np.float32(mean / std)
    return tensor, placement


def fit(image: NDArray[np.uint8], preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], Placement]:
    """The image [h, w, 3] resized and padded to the network's size [H, W, 3], still 0 to 255 and RGB."""
    placement = place(image.shape[1], image.shape[0], preprocessing)
    size = placement.fitted
    resized = image if size == (placement.width, placement.height) else _resize(image, size, preprocessing)
    if size == (preprocessing.width, preprocessing.height):
        return resized, placement
    canvas = np.full((preprocessing.height, preprocessing.width, 3), preprocessing.pad_value, dtype=np.uint8)
    canvas[placement.top : placement.top + size[1], placement.left : placement.left + size[0]] = resized
    return canvas, placement


def shrink(image: NDArray[np.uint8], preprocessing: Preprocessing, room: float = 1.0) -> NDArray[np.uint8]:
    """The image [h, w, 3] no larger than `room` times the px that the network sees of it; as it is where it is not."""
    limits = place(image.shape[1], image.shape[0], preprocessing).fitted
    size = min(image.shape[1], round(limits[0] * room)), min(image.shape[0], round(limits[1] * room))
    return image if size == (image.shape[1], image.shape[0]) else _resize(image, size, preprocessing)


def fit_masks(masks: NDArray[np.bool_], placement: Placement, preprocessing: Preprocessing) -> NDArray[np.bool_]:
    """Masks [N, h, w] of an image, to [N, H, W] over the network's input: the nearest px, False in the padding."""
    across, down = placement.fitted
    fitted = np.zeros((len(masks), preprocessing.height, preprocessing.width), np.bool_)
    fitted[:, placement.top : placement.top + down, placement.left : placement.left + across] = resize_masks(masks, (down, across))
    return fitted


def resize_masks(masks: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks [N, h, w] at another size (height, width), each px the nearest one."""
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(size, masks.shape[1:], strict=True))
    return masks if size == masks.shape[1:] else masks.take(columns, axis=2).take(rows, axis=1)


def place(width: int, height: int, preprocessing: Preprocessing) -> Placement:
    """Where an image of width x height px comes to lie.

    `letterbox` and `shortest_edge` keep the aspect, each side rounded to whole px, at least 1. A letterboxed image is centered;
    where the padding is odd, the smaller half is on the left and on top. `shortest_edge` is at the top left.
    """
    if preprocessing.resize == "stretch":
        size = preprocessing.width, preprocessing.height
    else:
        scale = min(preprocessing.width / width, preprocessing.height / height)
        if preprocessing.resize == "shortest_edge":
            scale = min(scale, min(preprocessing.width, preprocessing.height) / min(width, height))
        size = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = (preprocessing.width - size[0]) // 2, (preprocessing.height - size[1]) // 2
    if preprocessing.resize == "shortest_edge":
        left = top = 0
    return Placement(size[0] / width, size[1] / height, left, top, width, height)


def _resize(image: NDArray[np.uint8], size: tuple[int, int], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize(size, _RESAMPLE[preprocessing.interpolation]))


def _to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    if image.mode in _SIXTEEN_BIT:
        return _scale_16_bit(np.asarray(image), name)
    if image.mode == "F":
        raise DataError(f"{name}: floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    return np.array(image.convert("RGB"))


def _scale_16_bit(values: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise DataError(f"{name}: 32-bit pixels from {wide.min()} to {wide.max()} have no known range; save it with 8 or 16 bits")
    grey = ((wide + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it is damaged, which does not make the pixels unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _UNREADABLE:
        return 1
    return value if value in range(1, 9) else 1


def upright(pixels: NDArray[Scalar], orientation: int) -> NDArray[Scalar]:
    """Undo a camera's rotation or mirroring, an EXIF orientation, of an image or a mask [H, W, ...]."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
