"""A folder in YOLO's layout: data.yaml with train, val and names, or images/train, labels/train and class names."""

from pathlib import Path
from typing import Any

from stages.datasets import Source
from stages.datasets.layouts import digest, folder, splits_digest, yolo
from stages.notes import Notes


def build(out: Path, *, root: str | None = None, names: list[str] | None = None) -> dict[str, Source]:
    """Read every split; the classes are `names`, otherwise those of data.yaml or classes.txt.

    Args:
        root: the data folder; must be given.
        names: class names in the order of their numbers; null: those that the folder defines.

    Raises:
        DataError: no such folder, no class names, or lines that cannot be understood.
    """
    notes = Notes()
    return yolo.sources(yolo.discover(folder(root, "yolo"), names, notes), notes)


def identity(*, root: str | None = None, names: list[str] | None = None) -> dict[str, Any]:
    """Digests of the label files, of the images' names, sizes and times, and of which image has which label file in which split."""
    layout = yolo.discover(folder(root, "yolo"), names, Notes())
    images = [*layout.labels.unread, *(path for paths in layout.images.values() for path in paths)]
    labels = {*layout.labels.files, *layout.labels.of.values()}
    return digest([*layout.heads, *sorted(labels)], images) | splits_digest(yolo.in_splits(layout))
