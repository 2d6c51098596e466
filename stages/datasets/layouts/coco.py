"""COCO's layout: per split, one JSON file of images, annotations and categories, and a folder of images.

Files are read as annotation tools and scripts write them; what had to be repaired, assumed or left out is in each split's notes.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.layouts import coco_files, digest, shared_images, splits_digest
from stages.datasets.layouts.coco_files import Pair
from stages.datasets.layouts.entries import classes, document, objects, pictures, units
from stages.notes import Notes


@dataclass(frozen=True)
class _Split:
    pair: Pair
    images: list[dict[str, Any]]
    reading: classes.Reading


discover = coco_files.discover


def identity(pairs: Mapping[str, Pair]) -> dict[str, str]:
    """Digests of the annotation files, of the images' names, sizes and times, and of which file and folder is which split."""
    folders = sorted({pair.images for pair in pairs.values()})
    rows = [(split, pair.annotations.name, f"folder {folders.index(pair.images)}") for split, pair in pairs.items()]
    return digest([pair.annotations for pair in pairs.values()], folders) | splits_digest(rows)


def sources(pairs: Mapping[str, Pair], boxes: units.Boxes | None = None) -> dict[str, Source]:
    """Every split with its annotations read; all have the categories of train.

    Args:
        boxes: what the numbers of a box are; None: x, y, width, height in px, unless the file contradicts it.

    Raises:
        DataError: a file or folder is missing, a file is not a COCO file, or its entries could mean two things.
    """
    if boxes is not None and boxes not in units.names():
        raise DataError(f"data.boxes is {boxes!r}; choose from {', '.join(units.names())}")
    for split, pair in pairs.items():
        if not pair.images.is_dir():
            raise DataError(f"{pair.images}: no such folder; it should hold the {split} images")
    notes = {split: Notes() for split in pairs}
    splits = {split: _read(split, pairs, boxes, notes[split]) for split in pairs}
    categories = classes.unify({split: one.reading for split, one in splits.items()}, notes)
    shared = Notes()
    shared_images.add(shared, {split: _files(one) for split, one in splits.items()})
    found = {}
    for split, one in splits.items():
        content = {"images": one.images, "annotations": one.reading.annotations, "categories": [dict(row) for row in categories]}
        twice = (note for note in shared if note.split == split)
        found[split] = Source(one.pair.images, content, (*one.pair.notes, *notes[split], *twice))
    return found


def _read(split: str, pairs: Mapping[str, Pair], boxes: units.Boxes | None, notes: Notes) -> _Split:
    pair = pairs[split]
    content = document.read(pair.annotations, notes, split)
    kinds = classes.read(content, notes, split)
    images = pictures.read(content, pair.images, notes, split, own=_is_own(pair.images, split, pairs))
    rows = objects.read(content, images, kinds, notes, split)
    if boxes is None:
        units.judge(pair.annotations, rows, images.rows, pair.images, notes, split)
    return _Split(pair, images.rows, classes.Reading(kinds, units.converted(rows, images.rows, pair.images, boxes)))


def _files(split: _Split) -> Iterator[tuple[Path, str]]:
    """The files of a split's images, each with its name."""
    return ((Path(os.path.normpath(split.pair.images / row["file_name"])), row["file_name"]) for row in split.images)


def _is_own(folder: Path, split: str, pairs: Mapping[str, Pair]) -> bool:
    """Whether no other split's images are in the folder."""
    return not any(other.images.is_relative_to(folder) for name, other in pairs.items() if name != split)
