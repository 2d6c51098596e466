"""The actual contents of a data set's files, each decoded once, with one thread per core."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy import machine
from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.machine.files import sha256
from deploy.prediction import decoding, guard
from deploy.prediction.image_files import FORMATS, ORIENTATION, decode, opened
from deploy.progress import track
from stages.datasets.cleaning import pixels
from stages.notes import Kind

MISSING = Kind("missing image", "left out", "images")
UNREADABLE = Kind("unreadable image", "left out", "images")

_SWAPPED = range(5, 9)


@dataclass(frozen=True)
class ImageFile:
    """A readable image: its size in px when upright, and the EXIF orientation that made it so.

    `stored` is what the contract makes of its values. `sha256` is the file's; `look` is 16 x 16 of its gray values, to recognize the
    same picture. Both are empty unless requested.
    """

    width: int
    height: int
    orientation: int
    stored: pixels.Stored
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


def scan(paths: Sequence[Path], label: str, preprocessing: Preprocessing, *, fingerprints: bool = False) -> list[ImageFile | Unusable]:
    """Decode every file, in order; `fingerprints` fills sha256 and look."""
    with ThreadPoolExecutor(machine.num_cores()) as pool:
        each = partial(_scan, preprocessing=preprocessing, fingerprints=fingerprints)
        return list(track(pool.map(each, paths), label, len(paths)))


def stored(rows: Sequence[Mapping[str, Any]], files: Sequence[ImageFile | Unusable]) -> list[tuple[str, pixels.Stored]]:
    """Name and stored values of each readable image; `rows` are the COCO images that `files` were found for."""
    found = zip(rows, files, strict=True)
    return [(row["file_name"], file.stored) for row, file in found if isinstance(file, ImageFile)]


def size(path: Path) -> tuple[int, int] | None:
    """Width and height in px of the upright image, from the file's header only; None if it cannot be read."""
    try:
        with guard.open_image(path, FORMATS) as image:
            swapped = image.getexif().get(ORIENTATION, 1) in _SWAPPED
            return (image.height, image.width) if swapped else (image.width, image.height)
    except (OSError, SyntaxError, ValueError):
        return None


def _scan(path: Path, preprocessing: Preprocessing, fingerprints: bool) -> ImageFile | Unusable:
    if not path.is_file():
        return Unusable(MISSING, str(path))
    try:
        with opened(path, preprocessing) as image:
            deep = decoding.is_deep_color(image)
            decoded, orientation = decode(image, preprocessing)
            values = pixels.examine(image, decoded, preprocessing, deep=deep)
    except DataError as error:
        return Unusable(UNREADABLE, str(error))
    height, width = decoded.shape[:2]
    if not fingerprints:
        return ImageFile(width, height, orientation, values)
    return ImageFile(width, height, orientation, values, sha256(path), _look(decoded))


def _look(decoded: NDArray[np.uint8]) -> bytes:
    return Image.fromarray(decoded).convert("L").resize((16, 16), Image.Resampling.BOX).tobytes()
