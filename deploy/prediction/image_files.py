"""Reading image files safely: formats, limits, orientation, colors."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError, features
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from deploy.contract import MAX_PIXELS, Preprocessing
from deploy.errors import DataError
from deploy.machine.files import open_regular
from deploy.prediction import costly, decoding, guard, preprocess

_BOUNDED = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


_AVIF = ("AVIF",) if features.check("avif") else ()


FORMATS = (*_BOUNDED, "JPEG2000", "PPM", *_AVIF)  # none that needs an external program to decode; a camera's MPO is read as JPEG


_REDUCIBLE = ("JPEG", "MPO")


_RUN_LENGTHS = (1, 2)


Scalar = TypeVar("Scalar", bound=np.generic)


ORIENTATION = 0x0112
SWAPPED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""


_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AssertionError),
    *(struct.error, zlib.error),
)


def load_image(
    source: Path | bytes, preprocessing: Preprocessing, *, max_pixels: int | None = None, trusted: bool = True
) -> NDArray[np.uint8]:
    """Read an image file, or its bytes, as RGB [H, W, 3], upright.

    Gray values are repeated, palettes looked up, CMYK converted, 16-bit values scaled to the contract's `white`, transparency blended
    over black or ignored as its `alpha` says, the camera's rotation (EXIF) applied; of several pictures, the first is used. With the
    contract's default white, 16-bit color loses its low bytes.

    Args:
        preprocessing: how it is decoded; the same for every image that a network sees.
        max_pixels: maximum number of pixels, checked before anything is decoded; the contract's, unless given.
        trusted: if false, formats that decode slowly from few bytes are refused, too: JPEG 2000, PPM, AVIF, run-length BMP, and
            files of very many parts, see `costly`.

    Raises:
        DataError: no such file, not an image, damaged, above max_pixels, or with pixels of unknown range.
    """
    with opened(source, preprocessing, max_pixels=max_pixels, trusted=trusted) as image:
        return decode(image, preprocessing)[0]


@dataclass(frozen=True)
class SeenImage:
    """An image as RGB [H, W, 3], upright, and its width and height in px; with `reduced_decoding`, the pixels may be fewer."""

    pixels: NDArray[np.uint8]
    size: preprocess.Size


def load(
    source: Path | bytes, preprocessing: Preprocessing, *, max_pixels: int | None = None, trusted: bool = True, looked: bool = False
) -> SeenImage:
    """Read an image file, or its bytes, for the network; arguments and errors as for load_image, `looked` as for opened.

    The same as load_image, unless the contract has `reduced_decoding`: then a JPEG is decoded at the smallest of the sizes that its
    format allows, down to an eighth, that is no less than what the network sees of it.
    """
    with opened(source, preprocessing, max_pixels=max_pixels, trusted=trusted, looked=looked) as image:
        size = _reduce(image, preprocessing) if preprocessing.reduced_decoding and image.format in _REDUCIBLE else None
        pixels, _ = decode(image, preprocessing)
        return SeenImage(pixels, size or (pixels.shape[1], pixels.shape[0]))


def _reduce(image: Image.Image, preprocessing: Preprocessing) -> preprocess.Size:
    """Have a JPEG decoded at a reduced size; its width and height when upright."""
    swapped, size = orientation_of(image) in SWAPPED, upright_size(image)
    across, down = preprocess.place(*size, preprocessing).fitted
    image.draft(None, (down, across) if swapped else (across, down))
    return size


def from_pillow(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """A picture of Pillow's as RGB [H, W, 3], upright: the same pixels as load_image gives for its file.

    One exception: 16-bit color that is loaded already has only its high bytes left, so the contract's `white` does not apply to it.

    Raises:
        DataError: as load_image.
    """
    name = _name(image)
    with _refused(name, FORMATS):
        _refuse_large(image, name, preprocessing.max_pixels, "data.preprocessing.max_pixels")
        return decode(image, preprocessing)[0]


@contextmanager
def opened(
    source: Path | bytes, preprocessing: Preprocessing, *, max_pixels: int | None = None, trusted: bool = True, looked: bool = False
) -> Iterator[ImageFile.ImageFile]:
    """The file, checked and not loaded yet; whatever Pillow raises while it is open becomes one line. Arguments as for load_image.

    Args:
        looked: whether `costly.look` has accepted the bytes before.

    Raises:
        DataError: as load_image.
    """
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    formats = FORMATS if trusted else _BOUNDED
    if not trusted and isinstance(source, bytes):
        try:
            if not looked:
                costly.look(source)
            costly.refuse_scans(source)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    with _refused(name, formats, source), guard.open_image(io.BytesIO(source) if isinstance(source, bytes) else source, formats) as image:
        key = "data.preprocessing.max_pixels" if trusted else "serve.max_pixels"
        _refuse_large(image, name, preprocessing.max_pixels if max_pixels is None else max_pixels, key)
        if not trusted:
            _refuse_slow(image, name)
        yield image


def decode(image: Image.Image, preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], int]:
    """An opened image as RGB [H, W, 3], upright, and the EXIF orientation, 1 to 8, that was undone.

    1 is upright; 5 and above swap width and height.

    Raises:
        DataError: pixels of unknown range.
    """
    stated = orientation_of(image) if isinstance(image, TiffImageFile) else 1  # Pillow undoes a TIFF's while it loads it, and forgets it
    pixels = decoding.to_rgb(image, preprocessing, _name(image))
    left = orientation_of(image)
    return upright(pixels, left), stated if left == 1 else left


@contextmanager
def _refused(name: str, formats: Sequence[str], source: Path | bytes = b"") -> Iterator[None]:
    """Turn what Pillow raises into one line.

    Raises:
        DataError: the image cannot be read.
    """
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: more than {MAX_PIXELS:,} px in one part; save it again or cut it into tiles") from error
    except UnidentifiedImageError as error:
        start = _start(source)
        if start.startswith(b"version https://git-lfs"):
            raise DataError(f"{name}: Git LFS's note about the image, not the image; run: git lfs pull") from error
        if _is_heic(start):
            raise DataError(f"{name}: HEIC (a phone's format) cannot be read; convert it to JPEG or PNG") from error
        raise DataError(f"{name}: not an image that can be read; allowed: {', '.join(formats)}") from error
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: cannot be read as an image ({reason})") from error


def _start(source: Path | bytes) -> bytes:
    """The first bytes of a file or of its content."""
    if not isinstance(source, Path):
        return source[:64]
    with open_regular(source) as file:
        return file.read(64)


def _is_heic(source: bytes) -> bool:
    return source[4:8] == b"ftyp" and source[8:12] in _HEIC and b"avif" not in source[:64]


def _name(image: Image.Image) -> str:
    return str(getattr(image, "filename", "") or f"image of mode {image.mode}")


def _refuse_large(image: Image.Image, name: str, max_pixels: int, key: str) -> None:
    if image.width * image.height > max_pixels:
        raise DataError(f"{name}: {image.width} x {image.height} px is more than {max_pixels:,}; cut it into tiles or raise {key}")


def _refuse_slow(image: Image.Image, name: str) -> None:
    if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
        raise DataError(f"{name}: run-length-encoded BMP is not accepted; save it as PNG")


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if there is none or it is damaged, since the pixels are still readable."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except _UNREADABLE:
        return 1
    return value if value in range(1, 9) else 1


def upright_size(image: Image.Image) -> preprocess.Size:
    """Width and height in px when upright, of an opened image that is not loaded yet."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else None  # Pillow may have exchanged a TIFF's width and height already
    width, height = image.size if tags is None else (tags[IMAGEWIDTH], tags[IMAGELENGTH])
    return (height, width) if orientation_of(image) in SWAPPED else (width, height)


def upright(pixels: NDArray[Scalar], orientation: int) -> NDArray[Scalar]:
    """Undo a camera's rotation or mirroring, given as EXIF orientation, in an image or a mask [H, W, ...]."""
    if orientation in SWAPPED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
