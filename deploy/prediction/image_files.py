"""Reading image files safely: formats, limits, orientation, colors."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from deploy.errors import DataError

MAX_PIXELS = 89_478_485  # Pillow's own bound: above it a small file can fill the memory


FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")  # none that needs an external program to decode


_BOUNDED = tuple(name for name in FORMATS if name != "PPM")


_RUN_LENGTHS = (1, 2)


_SCAN, _MOST_SCANS = b"\xff\xda", 100


Scalar = TypeVar("Scalar", bound=np.generic)


ORIENTATION = 0x0112


_TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")


_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error, zlib.error)


def load_image(source: Path | bytes, *, max_pixels: int = MAX_PIXELS, trusted: bool = True) -> NDArray[np.uint8]:
    """Read an image file, or its bytes, as RGB [H, W, 3], upright.

    Gray values are repeated, palettes looked up, CMYK converted, 16-bit values divided by 257, transparency blended over black, the
    camera's rotation (EXIF) applied; of an animation, the first frame is used.

    Args:
        max_pixels: maximum number of pixels, checked before anything is decoded.
        trusted: if false, formats that decode slowly from few bytes are refused, too: PPM, run-length BMP, JPEG with over 100 scans.

    Raises:
        DataError: no such file, not an image, damaged, above max_pixels, or with 32-bit pixels of unknown range.
    """
    return load_oriented(source, max_pixels=max_pixels, trusted=trusted)[0]


def load_oriented(source: Path | bytes, *, max_pixels: int = MAX_PIXELS, trusted: bool = True) -> tuple[NDArray[np.uint8], int]:
    """The image from load_image, and the EXIF orientation, 1 to 8, that was undone: 1 is upright, 5 and above swap width and height.

    Raises:
        DataError: as load_image.
    """
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    formats = FORMATS if trusted else _BOUNDED
    with _refused(name, formats), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
        _refuse_large(image, name, max_pixels)
        if not trusted:
            _refuse_slow(image, source, name)
        return _decode(image, name)


def from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """A picture of Pillow's as RGB [H, W, 3], upright: the same pixels as load_image gives for its file.

    Raises:
        DataError: as load_image.
    """
    name = getattr(image, "filename", "") or f"image of mode {image.mode}"
    with _refused(name, FORMATS):
        _refuse_large(image, name, MAX_PIXELS)
        return _decode(image, name)[0]


@contextmanager
def _refused(name: str, formats: Sequence[str]) -> Iterator[None]:
    """Turn what Pillow raises into one line.

    Raises:
        DataError: the image cannot be read.
    """
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: more than {MAX_PIXELS:,} px; cut it into tiles") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image that can be read; allowed: {', '.join(formats)}") from error
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: cannot be read as an image ({reason})") from error


def _decode(image: Image.Image, name: str) -> tuple[NDArray[np.uint8], int]:
    image.load()
    orientation = _orientation(image)
    return upright(_to_rgb(image, name), orientation), orientation


def _refuse_large(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise DataError(f"{name}: {image.width} x {image.height} px is more than {max_pixels:,}; cut it into tiles")


def _refuse_slow(image: Image.Image, source: Path | bytes, name: str) -> None:
    if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
        raise DataError(f"{name}: run-length-encoded BMP is not accepted; save it as PNG")
    if image.format == "JPEG" and isinstance(source, bytes) and source.count(_SCAN) > _MOST_SCANS:
        raise DataError(f"{name}: JPEG with more than {_MOST_SCANS} scans; save it again")


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
    gray = ((wide + 128) // 257).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if there is none or it is damaged, since the pixels are still readable."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except _UNREADABLE:
        return 1
    return value if value in range(1, 9) else 1


def upright(pixels: NDArray[Scalar], orientation: int) -> NDArray[Scalar]:
    """Undo a camera's rotation or mirroring, given as EXIF orientation, in an image or a mask [H, W, ...]."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
