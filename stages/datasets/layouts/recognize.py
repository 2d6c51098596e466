"""Which kind of data set a folder is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets.layouts import coco, voc, yolo

_READERS: dict[str, Callable[[Path], Any]] = {"coco": coco.discover, "yolo": yolo.discover, "voc": voc.discover}


def recognize(root: Path) -> tuple[str, dict[str, Any]]:
    """The name of the file in stages/datasets that reads a folder, and its options.

    Raises:
        DataError: no such folder, or none or several of the layouts fit it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: {'a file' if root.exists() else 'no such folder'}; name the folder that holds the labeled images")
    fitting = [name for name, discover in _READERS.items() if _fits(discover, root)]
    if len(fitting) == 1:
        return fitting[0], {"root": str(root)}
    if fitting:
        raise DataError(f"{root}: read by {' and by '.join(fitting)}; leave only one kind of annotations in it")
    raise DataError(f"{root}: no annotations in COCO's, YOLO's or VOC's layout; docs/data.md shows what is read")


def _fits(discover: Callable[[Path], Any], root: Path) -> bool:
    try:
        return bool(discover(root))
    except DataError:
        return False
