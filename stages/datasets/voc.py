"""A folder in Pascal VOC's layout: Annotations, JPEGImages and ImageSets/Main, or images and XML files side by side."""

from pathlib import Path
from typing import Any

from stages.datasets import Source
from stages.datasets.layouts import folder, voc


def build(out: Path, *, root: str | None = None, names: list[str] | None = None) -> dict[str, Source]:
    """Read every split; the classes are `names` in that order, or all names found, sorted.

    Args:
        root: the data folder; must be given.
        names: class names in this order; null uses all names found, sorted.

    Raises:
        DataError: no such folder, an unreadable annotation, or a class that is not in `names`.
    """
    return voc.sources(voc.discover(folder(root, "voc")), names)


def identity(*, root: str | None = None, names: list[str] | None = None) -> dict[str, Any]:
    """Digests of the annotation files, of the images' names, sizes and times, and of the splits."""
    return voc.identity(voc.discover(folder(root, "voc")))
