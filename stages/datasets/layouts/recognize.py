"""Which kind of data set a folder is."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets.layouts import coco, voc, yolo
from stages.notes import Notes

_READERS: dict[str, Callable[[Path], Any]] = {
    "coco": coco.discover,
    "yolo": lambda root: yolo.discover(root, None, Notes()),
    "voc": voc.discover,
}
_SUFFIXES = (".json", ".txt", ".xml", ".yaml", ".yml")


def recognize(root: Path) -> tuple[str, dict[str, Any]]:
    """The name of the file in stages/datasets that reads a folder, and its options.

    Raises:
        DataError: no such folder, or none or several of the layouts fit it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'a file' if root.exists() else 'no such folder'}; name the folder that holds the labeled images")
    why_not = {name: _why_not(discover, root) for name, discover in _READERS.items()}
    fitting = [name for name, why in why_not.items() if why is None]
    if len(fitting) == 1:
        return fitting[0], {"root": str(root)}
    if fitting:
        raise DataError(f"{root}: read by {' and by '.join(fitting)}; leave only one kind of annotations in it")
    if not _has_annotations(root):
        raise DataError(f"{root}: no annotations, which are .json, .txt, .xml or .yaml files; docs/data.md shows the layouts that are read")
    tried = "; ".join(f"{name}: {_short(why, root)}" for name, why in why_not.items())
    raise DataError(f"{root}: no annotations in COCO's, YOLO's or VOC's layout; docs/data.md shows what is read ({tried})")


def _has_annotations(root: Path) -> bool:
    """Whether any file has the suffix of some layout's annotations."""
    return any(name.lower().endswith(_SUFFIXES) for _, _, names in os.walk(root) for name in names)


def _short(why: str | None, root: Path) -> str:
    """What is wrong, without the folder that all reasons are about, and without what to do about it."""
    return str(why).removeprefix(f"{root}: ").split("; ")[0]


def _why_not(discover: Callable[[Path], Any], root: Path) -> str | None:
    """Why a reader does not read the folder; None if it does."""
    try:
        return None if discover(root) else "nothing found"
    except DataError as error:
        return str(error)
