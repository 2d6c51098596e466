"""Images that are in more than one split: what is measured on them overstates accuracy."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from stages.datasets.cleaning.limits import BOTH
from stages.notes import Notes


def add(notes: Notes, images: Mapping[str, Iterable[tuple[Path, str]]]) -> None:
    """Note each image of a split that a split before it has, too.

    Args:
        images: the file of each image, and its `file_name`.
    """
    known: set[Path] = set()
    for split, rows in images.items():
        own = dict(rows)
        for file, name in own.items():
            if file in known:
                notes.add(BOTH, split, f"{name}: accuracy is overstated", image=name)
        known.update(own)
