"""What was found in image files, kept in the store: one line of JSON per file, written while they are read.

A run that was killed goes on where it stopped, and a file is decoded again only if its size or time has changed.
"""

import base64
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Self

import PIL

from deploy.contract import Preprocessing
from deploy.machine import known_files
from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.pixels import Stored

FOLDER = ".images"
FLUSH_S = 1.0
_READING = 2
"""Raised when the same file is found to be something else than before."""
State = tuple[int, int, int]
"""Size in bytes, and times of the last change of content and of anything, in ns."""


class Journal:
    """The images below one folder, read with one way of decoding."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, tuple[State, ImageFile]] = dict(_lines(path))
        self._file: IO[str] | None = None
        self._flushed = time.monotonic()

    def find(self, path: Path, *, fingerprints: bool) -> ImageFile | None:
        """What is known of an unchanged file, with its fingerprints or without; None if it has to be read."""
        state, found = self._found.get(str(path), (None, None))
        if found is None or state != state_of(path) or (fingerprints and not found.sha256):
            return None
        return found if fingerprints else replace(found, sha256="", look=b"")

    def add(self, path: Path, state: State | None, found: ImageFile) -> None:
        """Keep what was found in a file that had this state before it was read; nothing if it may still change within its time."""
        if state is None or max(state[1:]) + known_files.SETTLED_NS > time.time_ns():
            return
        self._found[str(path)] = state, found
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        row = asdict(found) | {"look": base64.b64encode(found.look).decode("ascii")}
        self._file.write(json.dumps([str(path), state, row]) + "\n")
        if time.monotonic() - self._flushed > FLUSH_S:
            self._file.flush()
            self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def journal(paths: Sequence[Path], preprocessing: Preprocessing) -> Iterator[Journal | None]:
    """The journal for these images; None if there is no store to keep it in, or if they are in the store themselves."""
    store, folder = known_files.folder(), _common(paths)
    if store is None or folder.is_relative_to(store.resolve()):
        yield None
        return
    how = [str(folder), preprocessing.alpha, preprocessing.white, preprocessing.max_pixels, PIL.__version__, _READING]
    name = hashlib.sha256(json.dumps(how).encode()).hexdigest()[:16]
    with Journal(store / FOLDER / f"{name}.jsonl") as kept:
        yield kept


def _common(paths: Sequence[Path]) -> Path:
    """The folder that all images are in; the root if they are on several drives."""
    try:
        return Path(os.path.commonpath([path.parent.absolute() for path in paths])).resolve()
    except ValueError:
        return Path("/")


def state_of(path: Path) -> State | None:
    """The state of a file; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _lines(path: Path) -> Iterator[tuple[str, tuple[State, ImageFile]]]:
    """Every complete line of a journal; the last one may be half written."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                name, state, row = json.loads(line)
                look = base64.b64decode(row["look"])
                found = ImageFile(**{**row, "stored": Stored(**row["stored"]), "look": look})
                yield name, (_state(state), found)
            except (ValueError, TypeError, KeyError):
                continue


def _state(value: Any) -> State:
    size, content, anything = value
    return size, content, anything
