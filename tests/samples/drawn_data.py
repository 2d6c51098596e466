"""Data sets that were drawn, damaged and read: whether what is read is what was drawn, or how much of it the notes account for."""

import io
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from deploy.contract import Preprocessing
from stages.datasets import Source
from stages.datasets.cleaning import clean, images, rules
from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.images import Unusable
from stages.datasets.layouts import text
from stages.datasets.layouts.yolo import kinds
from stages.notes import Note, Notes

_MEMORY = "/dev/shm"
_OF_ALL = tuple(kind.name for kind in (kinds.ABSENT, kinds.BY_FOLDER, kinds.SECOND_PLACE, kinds.OTHER_FILE, text.LEGACY))
"""Kinds of notes on files that may concern every object."""


class DrawnObject(NamedTuple):
    """An object of a picture (its file's name); the box is x, y, width, height in px."""

    split: str
    picture: str
    name: str
    box: tuple[float, ...]

    def is_like(self, other: "DrawnObject") -> bool:
        """Whether both are the same object, to 0.02 px: YOLO's writers round to six decimals."""
        return self[:3] == other[:3] and all(abs(a - b) < 0.02 for a, b in zip(self.box, other.box, strict=True))


@contextmanager
def memory_folder() -> Iterator[Path]:
    """An empty folder, in memory if the system has a place for that: writing and removing thousands of small files on a disk is slow."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as folder:
        yield Path(folder)


@cache
def png(width: int, height: int, number: int = 0) -> bytes:
    """A PNG file of one color; different numbers are different files."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (number, 0, 0)).save(file, format="PNG")
    return file.getvalue()


def read(found: Mapping[str, Source]) -> tuple[list[DrawnObject], list[Note]]:
    """All objects that are left after cleaning, and all notes.

    Raises:
        DataError: the splits break a rule.
    """
    rules.check_splits(found, tuple(found))
    objects: list[DrawnObject] = []
    noted: list[Note] = []
    for split, source in found.items():
        notes = Notes()
        coco = clean.clean(split, source, [_scan(source.images / row["file_name"]) for row in source.coco["images"]], notes)
        files = {row["id"]: row["file_name"].rpartition("/")[2] for row in coco["images"]}
        names = {row["id"]: row["name"] for row in coco["categories"]}
        objects += [
            DrawnObject(split, files[row["image_id"]], names[row["category_id"]], tuple(row["bbox"])) for row in coco["annotations"]
        ]
        noted += [*source.notes, *notes]
    return objects, noted


def unaccounted(drawn: Sequence[DrawnObject], found: Sequence[DrawnObject], notes: Iterable[Note]) -> list[DrawnObject]:
    """Objects that were lost, changed or invented, beyond the number that the notes of their split count as left out or assumed."""
    lost, extra = _without(drawn, found), _without(found, drawn)
    most = max((count for some in (drawn, found) for count in Counter(one[:2] for one in some).values()), default=0)
    silent: list[DrawnObject] = []
    doubts = [note for note in notes if note.action in ("left out", "assumed")]
    for split in {one.split for one in (*lost, *extra)}:
        allowed = sum(_reach(note, most) for note in doubts if note.split == split or note.kind in _OF_ALL)
        pictures = sorted({one.picture for one in (*lost, *extra)})
        differing = [one for name in pictures for one in max(_of(lost, split, name), _of(extra, split, name), key=len)]
        silent += differing if len(differing) > allowed else []
    return silent


def _reach(note: Note, most: int) -> float:
    """How many objects a note may be about; `most` is the largest number in a picture."""
    if note.unit == "boxes":
        return note.count
    if note.unit == "masks":
        return 0
    return float("inf") if note.unit == "classes" or note.kind in _OF_ALL else note.count * most


def _without(some: Sequence[DrawnObject], others: Sequence[DrawnObject]) -> list[DrawnObject]:
    """Those that have no like among the others, each of which counts once."""
    left = list(others)
    missing = []
    for one in some:
        like = next((index for index, other in enumerate(left) if one.is_like(other)), None)
        if like is None:
            missing.append(one)
        else:
            del left[like]
    return missing


def _of(objects: Sequence[DrawnObject], split: str, picture: str) -> list[DrawnObject]:
    return [one for one in objects if (one.split, one.picture) == (split, picture)]


def _scan(path: Path) -> ImageFile | Unusable:
    if not path.is_file():
        return Unusable(images.MISSING, str(path))
    return _scan_content(path.read_bytes(), path.suffix)


@cache
def _scan_content(content: bytes, suffix: str) -> ImageFile | Unusable:
    """What cleaning finds in a file; decoded only once, because a few files are used again and again."""
    with memory_folder() as folder:
        path = folder / f"picture{suffix}"
        path.write_bytes(content)
        (found,) = images.scan([path], "", Preprocessing(height=64, width=64))
        return found
