"""A folder in YOLO's layout: data.yaml with train, val and names, or images/train, labels/train and class names."""

from pathlib import Path
from typing import Any

from stages.datasets import Source
from stages.datasets.layouts import digest, folder, yolo


def build(out: Path, *, root: str | None = None, names: list[str] | None = None) -> dict[str, Source]:
    """Read every split; the classes are `names`, otherwise those of data.yaml or classes.txt.

    Args:
        root: the data folder; must be given.
        names: class names, if the folder does not define them.

    Raises:
        DataError: no such folder, no class names, or a line that cannot be understood.
    """
    base = folder(root, "yolo")
    return yolo.sources(base, yolo.discover(base, names))


def identity(*, root: str | None = None, names: list[str] | None = None) -> dict[str, Any]:
    """Digests of the label files and of the images' names, sizes and times."""
    base = folder(root, "yolo")
    images = [path for paths in yolo.discover(base, names).images.values() for path in paths]
    labels = [label for path in images if (label := yolo.label_file(path)).is_file()]
    heads = [*sorted(base.glob("*.y*ml")), *sorted(base.glob("classes.txt"))]
    return digest([*heads, *labels], images)
