"""The actual contents of a data set's files, each decoded once, with one thread per core."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy import machine
from deploy.errors import DataError
from deploy.prediction.image_files import FORMATS, ORIENTATION, load_oriented
from deploy.progress import track
from stages.notes import Kind

MISSING = Kind("missing image", "left out", "images")
UNREADABLE = Kind("unreadable image", "left out", "images")

_SWAPPED = range(5, 9)


@dataclass(frozen=True)
class ImageFile:
    """A readable image: its size in px when upright, and the EXIF orientation that made it so.

    `sha256` is the file's; `look` is 16 x 16 of its gray values, to recognize the same picture. Both are empty unless requested.
    """

    width: int
    height: int
    orientation: int
    sha256: str = ""
    look: bytes = b""

    @property
    def turned(self) -> bool:
        """Whether width and height are swapped in the file."""
        return self.orientation in _SWAPPED


@dataclass(frozen=True)
class Unusable:
    """A file that is missing or cannot be decoded, and why."""

    kind: Kind
    reason: str


def scan(paths: Sequence[Path], label: str, *, fingerprints: bool = False) -> list[ImageFile | Unusable]:
    """Decode every file, in order; `fingerprints` fills sha256 and look."""
    with ThreadPoolExecutor(machine.num_cores()) as pool:
        return list(track(pool.map(partial(_scan, fingerprints=fingerprints), paths), label, len(paths)))


def size(path: Path) -> tuple[int, int] | None:
    """Width and height in px of the upright image, from the file's header only; None if it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            swapped = image.getexif().get(ORIENTATION, 1) in _SWAPPED
            return (image.height, image.width) if swapped else (image.width, image.height)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def _scan(path: Path, fingerprints: bool) -> ImageFile | Unusable:
    if not path.is_file():
        return Unusable(MISSING, str(path))
    try:
        pixels, orientation = load_oriented(path)
    except DataError as error:
        return Unusable(UNREADABLE, str(error))
    height, width = pixels.shape[:2]
    if not fingerprints:
        return ImageFile(width, height, orientation)
    return ImageFile(width, height, orientation, hashlib.sha256(path.read_bytes()).hexdigest(), _look(pixels))


def _look(pixels: NDArray[np.uint8]) -> bytes:
    return Image.fromarray(pixels).convert("L").resize((16, 16), Image.Resampling.BOX).tobytes()
