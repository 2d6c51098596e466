"""From the values that an image file stores to RGB of 8 bits: ranges of 16 bits, transparency, palettes and CMYK."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from deploy.contract import FULL_WHITE, Preprocessing
from deploy.errors import DataError
from deploy.prediction import guard

_TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")


_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


_LOW_BYTES = {
    "RGB;16B": "RGB;16L",
    "RGB;16L": "RGB;16B",
    "RGB;16N": "RGB;16B",
    "RGBA;16B": "RGBA;16L",
    "RGBA;16L": "RGBA;16B",
    "RGBA;16N": "RGBA;16B",
    "LA;16B": "RGBA",
}
"""Pillow keeps the high byte of 16-bit color. Read with the other order of bytes, the same file gives the low one; gray with alpha
gives all four bytes of a pixel."""


def to_rgb(image: Image.Image, preprocessing: Preprocessing, name: str) -> NDArray[np.uint8]:
    """Load an opened image as RGB [H, W, 3], not yet upright.

    Raises:
        DataError: pixels of unknown range, or 16-bit color that can be read with 8 bits only while the contract has a range for 16.
    """
    deep = None if preprocessing.white == FULL_WHITE else _all_sixteen_bits(image, name)
    guard.load(image)
    if image.mode in _SIXTEEN_BIT:
        gray = scale(_sixteen_bit(image, name), preprocessing.white)
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode == "F":
        raise DataError(f"{name}: floating-point pixels have no known range; save it with 8 or 16 bits")
    if deep is not None:
        image = Image.fromarray(np.concatenate((scale(deep[..., :3], preprocessing.white), (deep[..., 3:] >> 8).astype(np.uint8)), axis=2))
    if is_transparent(image):
        over = image.convert("RGBA")
        if preprocessing.alpha == "ignore":
            return np.array(over)[..., :3].copy()
        image = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def is_transparent(image: Image.Image) -> bool:
    """Whether an image has alpha, or a palette or color that stands for transparency."""
    return image.mode in _TRANSPARENT or "transparency" in image.info


def is_deep_color(image: Image.Image) -> bool:
    """Whether the file of an opened image that is not loaded yet stores color, or gray with alpha, in 16 bits per channel."""
    return image.mode not in _SIXTEEN_BIT and _rawmode(image) is not None


def stored(image: Image.Image, name: str, *, deep: bool) -> NDArray[np.integer] | None:
    """The 16-bit values of a loaded image, to judge their range; of deep color, to the next lower 256. None if it has 8 bits.

    Raises:
        DataError: 32-bit pixels beyond the range of 16 bits.
    """
    if image.mode in _SIXTEEN_BIT:
        return _sixteen_bit(image, name)
    return np.asarray(image)[..., :3].astype(np.uint16) << 8 if deep else None


def scale(values: NDArray[np.integer], white: int) -> NDArray[np.uint8]:
    """Values from 0 to `white` as 0 to 255, rounded; values above it are 255."""
    wide = np.minimum(values, white).astype(np.uint32)
    rounded: NDArray[np.uint8] = ((wide * 510 + white) // (2 * white)).astype(np.uint8)
    return rounded


def _sixteen_bit(image: Image.Image, name: str) -> NDArray[np.integer]:
    values: NDArray[np.integer] = np.asarray(image)
    if values.min() < 0 or values.max() > FULL_WHITE:
        raise DataError(f"{name}: pixels from {values.min()} to {values.max()} have no known range; save it with 8 or 16 bits")
    return values


def _rawmode(image: Image.Image) -> str | None:
    """How Pillow will unpack 16-bit color; None if the image has 8 bits or is loaded."""
    for tile in getattr(image, "tile", ()):
        for word in (tile.args,) if isinstance(tile.args, str) else tile.args if isinstance(tile.args, tuple) else ():
            if isinstance(word, str) and ";16" in word:
                return word
    return None


def _all_sixteen_bits(image: Image.Image, name: str) -> NDArray[np.uint16] | None:
    """Color [H, W, 3 or 4] with all of its 16 bits; None if the image has 8 bits, or is gray, which Pillow reads in full.

    Raises:
        DataError: Pillow cannot read the low bytes.
    """
    if not is_deep_color(image) or not isinstance(image, ImageFile.ImageFile) or image.fp is None:
        return None
    rawmode = _rawmode(image)
    if rawmode not in _LOW_BYTES:
        raise DataError(f"{name}: 16-bit color of kind {rawmode} can be read with 8 bits only; save it as PNG")
    place = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(place)
    if rawmode == "LA;16B":
        high, low, alpha, _ = np.moveaxis(_unpacked(content, image, rawmode), 2, 0)
        gray = _join(high, low)
        return np.stack((gray, gray, gray, _join(alpha, alpha)), axis=2)
    with guard.open_image(io.BytesIO(content), (image.format or "",)) as again:
        guard.load(again)
        return _join(np.asarray(again), _unpacked(content, image, rawmode))


def _join(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return np.bitwise_or(np.left_shift(high, 8, dtype=np.uint16), low, dtype=np.uint16)


def _unpacked(content: bytes, like: ImageFile.ImageFile, rawmode: str) -> NDArray[np.uint8]:
    """The bytes of an image that Pillow leaves out."""
    other = _LOW_BYTES[rawmode]

    def changed(args: Any) -> Any:
        return other if args == rawmode else tuple(other if word == rawmode else word for word in args)

    with guard.open_image(io.BytesIO(content), (like.format or "",)) as image:
        image.tile = [tile._replace(args=changed(tile.args)) for tile in image.tile]
        guard.load(image)
        return np.asarray(image)
