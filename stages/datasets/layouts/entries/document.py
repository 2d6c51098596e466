"""A COCO file's three lists; every other kind of JSON file is refused by name."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from deploy.machine.documents import parse_json
from stages.datasets.layouts.entries import pieces
from stages.datasets.layouts.text import read_text
from stages.datasets.tables.rows import Rows
from stages.notes import Notes

LISTS = ("images", "annotations", "categories")
_NEEDED = "needed: an object-detection file with images, annotations and categories"
_FOREIGN = {
    "shapes": "labelme's file of one image; convert the folder to COCO",
    "_via_img_metadata": "a project of the VGG Image Annotator; export it as COCO",
    "features": "GeoJSON; convert it to COCO",
}


@dataclass(frozen=True)
class Entries:
    """A file's three lists of entries; the annotations are not in memory."""

    path: Path
    images: list[dict[str, Any]]
    annotations: Sequence[dict[str, Any]]
    categories: list[dict[str, Any]]


def parse(path: Path, notes: Notes, split: str, lists: Collection[str] = LISTS, until: str | None = None) -> Any:
    """The content of a JSON file; of one that has lists of entries, these lists, with the annotations as Rows.

    Args:
        until: the last key that is needed; what comes after it may be missing from the result.

    Raises:
        DataError: it cannot be read, or is not JSON.
    """
    found = pieces.read(path, notes, split, lists, {"annotations"}, until)
    if found is not None:
        return found
    try:
        return parse_json(read_text(path, notes, split))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error


def read(path: Path, notes: Notes, split: str) -> Entries:
    """An annotation file.

    Raises:
        DataError: it is missing, not JSON, or not an object-detection file.
    """
    found = parse(path, notes, split)
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a COCO file but {_kind_of_list(found)}; {_NEEDED}")
    foreign = next((what for key, what in _FOREIGN.items() if key in found and "images" not in found), None)
    if foreign is not None:
        raise DataError(f"{path}: {foreign}")
    for key in LISTS:
        if key not in found:
            raise DataError(f"{path}: no '{key}' in it; {_NEEDED}")
        rows = found[key]
        if not isinstance(rows, Rows) and not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise DataError(f"{path}: '{key}' should be a list of objects; is it a COCO object-detection file?")
    if not found["categories"]:
        raise DataError(f"{path}: no categories; name at least one")
    _check_task(path, found["annotations"])
    rows = found["annotations"]
    return Entries(path, found["images"], rows if isinstance(rows, Rows) else Rows.kept(rows), found["categories"])


def image_rows(path: Path) -> list[dict[str, Any]]:
    """The images that an annotation file lists. What comes after them in the file is not read.

    Raises:
        DataError: as `read`.
    """
    found = parse(path, Notes(), "", ("images",), until="images")
    rows = found.get("images") if isinstance(found, dict) else None
    is_list = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    return list(rows or ()) if is_list else read(path, Notes(), "").images


def is_coco(path: Path) -> bool:
    """Whether a file can be read as JSON and has COCO's three lists."""
    try:
        found = parse(path, Notes(), "")
    except DataError:
        return False
    return isinstance(found, dict) and all(isinstance(found.get(key), list | Rows) for key in LISTS)


def is_unlabeled(path: Path) -> bool:
    """Whether a file lists images and has no annotations, as COCO's of its test images."""
    try:
        found = parse(path, Notes(), "")
    except DataError:
        return False
    return isinstance(found, dict) and isinstance(found.get("images"), list) and "annotations" not in found


def _kind_of_list(found: Any) -> str:
    first = found[0] if isinstance(found, list) and found else None
    if not isinstance(first, Mapping):
        return "a list" if isinstance(found, list) else "a single value"
    if "score" in first:
        return "a list of results, which detectors write"
    if "data" in first:
        return "Label Studio's own export; export as COCO there"
    return "a list of annotations without images and categories" if "bbox" in first else "a list"


def _check_task(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Refuse files in COCO's form that name no objects."""
    if any("bbox" in row or row.get("segmentation") for row in rows):
        return
    for key, task in (("segments_info", "panoptic"), ("caption", "captions")):
        if any(key in row for row in rows):
            raise DataError(f"{path}: a COCO {task} file, which has no objects with boxes; {_NEEDED}")
