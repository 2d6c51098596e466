"""The actual contents of a data set's files, each decoded once, with all cores."""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.machine.files import sha256
from deploy.machine.parallel import mapped
from deploy.prediction import decoding, guard
from deploy.prediction.image_files import FORMATS, decode, opened, upright_size
from deploy.progress import track
from stages.datasets.cleaning import pixels
from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.journal import Journal, State, journal, state_of
from stages.notes import Kind

MISSING = Kind("missing image", "left out", "images")
UNREADABLE = Kind("unreadable image", "left out", "images")


@dataclass(frozen=True)
class Unusable:
    """A file that is missing or cannot be decoded, and why."""

    kind: Kind
    reason: str


Read = tuple[State | None, ImageFile | Unusable]
"""The state of a file before it was read, and what is in it."""


class Begun:
    """Files that are being decoded, in their order."""

    def __init__(self, paths: Sequence[Path], read: Generator[ImageFile | Unusable, None, None]) -> None:
        self._paths = frozenset(paths)
        self._left = zip(paths, [state_of(path) for path in paths], read, strict=True)
        self._read: dict[Path, Read] = {}

    def __contains__(self, path: Path) -> bool:
        return path in self._paths

    def take(self, path: Path) -> Read:
        """What is in one of them, once it has been read."""
        while path not in self._read:
            self._keep(next(self._left))
        return self._read[path]

    def finish(self) -> None:
        """Wait for all of them, and for the processes to end."""
        for one in self._left:
            self._keep(one)

    def _keep(self, one: tuple[Path, State | None, ImageFile | Unusable]) -> None:
        path, state, found = one
        self._read[path] = state, found


@contextmanager
def begun(splits: Iterable[Sequence[Path]], preprocessing: Preprocessing) -> Iterator[Begun]:
    """Inside, the files of these splits that no journal knows are decoded with all cores, while this process does something else."""
    unknown: dict[Path, None] = {}
    for paths in splits:
        with journal(paths, preprocessing) as kept:
            unknown |= dict.fromkeys(path for path in paths if kept is None or kept.find(path, fingerprints=False) is None)
    each = partial(_scan, preprocessing=preprocessing, fingerprints=False)
    with closing(mapped(each, list(unknown))) as read:
        yield Begun(list(unknown), read)


def scan(
    paths: Sequence[Path], label: str, preprocessing: Preprocessing, *, fingerprints: bool = False, ahead: Begun | None = None
) -> list[ImageFile | Unusable]:
    """What is in every file, in order; `fingerprints` fills sha256 and look.

    Files are decoded with all cores, except those that a journal knows, and those of `ahead`, which have no fingerprints.
    """
    each = partial(_scan, preprocessing=preprocessing, fingerprints=fingerprints)
    with journal(paths, preprocessing) as kept:
        known = [None if kept is None else kept.find(path, fingerprints=fingerprints) for path in paths]
        unknown = [path for path, found in zip(paths, known, strict=True) if found is None]
        missing = [path for path in dict.fromkeys(unknown) if ahead is None or path not in ahead]
        if missing and ahead is not None:
            ahead.finish()  # so that its processes have ended before others are forked
        with closing(mapped(each, missing)) as read:
            rest = Begun(missing, read)
            found = ((path, *(ahead if ahead is not None and path in ahead else rest).take(path)) for path in unknown)
            fresh = _noted(found, kept)
            return [next(fresh) if found is None else found for found in track(known, label)]


def _noted(read: Iterable[tuple[Path, State | None, ImageFile | Unusable]], kept: Journal | None) -> Iterator[ImageFile | Unusable]:
    for path, state, found in read:
        if kept is not None and isinstance(found, ImageFile):
            kept.add(path, state, found)
        yield found


def stored(rows: Sequence[Mapping[str, Any]], files: Sequence[ImageFile | Unusable]) -> list[tuple[str, pixels.Stored]]:
    """Name and stored values of each readable image; `rows` are the COCO images that `files` were found for."""
    found = zip(rows, files, strict=True)
    return [(row["file_name"], file.stored) for row, file in found if isinstance(file, ImageFile)]


def size(path: Path) -> tuple[int, int] | None:
    """Width and height in px of the upright image, from the file's header only; None if it cannot be read."""
    try:
        with guard.open_image(path, FORMATS) as image:
            return upright_size(image)
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
