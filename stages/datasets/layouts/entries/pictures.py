"""The images that a COCO file lists, each found in its folder once."""

import posixpath
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from deploy.errors import DataError
from stages.datasets.layouts import SPLITS
from stages.datasets.layouts.entries.boxes import numeric
from stages.datasets.layouts.entries.document import Entries
from stages.datasets.layouts.entries.ids import Ids
from stages.datasets.layouts.image_names import RENAMED, ImageNames, can_be_a_name, is_file
from stages.notes import Kind, Notes

TWICE = Kind("image listed twice", "repaired", "images")
ELSEWHERE = Kind("image named by a key other than file_name", "repaired", "images")
UNLISTED = Kind("image without an entry", "left out", "images")
NO_SIZE = Kind("unusable width and height of an image", "repaired", "images")

_NAMES_ELSEWHERE = ("filename", "file", "path", "coco_url")
_LONGEST = 255


@dataclass(frozen=True)
class Pictures:
    """The rows of a split's images, and how annotations refer to them."""

    rows: list[dict[str, Any]]
    ids: Ids
    merged: Mapping[int, int]
    by_name: Mapping[str, int]

    def find(self, value: Any) -> int | None:
        """The number of the image that an annotation's image_id means; None if there is none."""
        number = self.ids.find(value)
        if number is None and isinstance(value, str):
            number = self.by_name.get(value)
        return None if number is None else self.merged.get(number, number)


def read(document: Entries, folder: Path, notes: Notes, split: str, *, own: bool) -> Pictures:
    """Every image of a file once, with the name of its file in the folder.

    Args:
        own: whether the folder is this split's only, so that images without an entry are worth a note.

    Raises:
        DataError: an image without id or name; one id for two files; two ids for a name that several files have.
    """
    ids = Ids(document.path, "image", document.images, notes, split)
    rows: dict[int, dict[str, Any]] = {}
    merged: dict[int, int] = {}
    first: dict[str, int] = {}
    named: dict[int, str] = {}
    for number, row in zip(ids.number, document.images, strict=True):
        name = _name(document.path, number, row, notes, split)
        plain = posixpath.normpath(name.replace("\\", "/"))
        if named.setdefault(number, plain) != plain:
            raise DataError(f"{document.path}: two images have the id {row['id']!r}: {named[number]} and {plain}")
        if plain in first:
            if first[plain] != number:
                _check_one_file(document.path, folder, plain)
            notes.add(TWICE, split, f"{name} in {document.path.name}")
            merged |= {} if first[plain] == number else {number: first[plain]}
            continue
        first[plain] = number
        rows[number] = _sized(row, notes, split) | {"id": number, "file_name": name}
    by_name = {row["file_name"]: number for number, row in rows.items()}
    _find(list(rows.values()), folder, notes, split, own=own)
    return Pictures(list(rows.values()), ids, merged, by_name)


def _check_one_file(path: Path, folder: Path, name: str) -> None:
    """Refuse a name of two images that two files next to each other have: each may be one of them."""
    words = {word for split in SPLITS.values() for word in split}
    others = (one for one in sorted(folder.parent.iterdir()) if one.is_dir() and (one == folder or one.name.lower() not in words))
    found = [file for one in (*others, *folder.glob("*/")) if is_file(file := one / name)]
    if len(found) > 1:
        shown = " and ".join(file.relative_to(folder.parent).as_posix() for file in found[:2])
        raise DataError(f"{path}: two images are named {name}, and there are {shown}; write file_name with its folder")


def _name(path: Path, number: int, row: Mapping[str, Any], notes: Notes, split: str) -> str:
    name = row.get("file_name")
    if not isinstance(name, str) or not name.strip():
        other = next((key for key in _NAMES_ELSEWHERE if isinstance(row.get(key), str) and row[key].strip()), None)
        if other is None:
            raise DataError(f"{path}: image {number} has no file_name; name its file")
        name = _last(row[other]) if other == "coco_url" else row[other]
        notes.add(ELSEWHERE, split, f"{path.name}: image {number} by {other}, {name}")
    if not can_be_a_name(name) or any(len(part.encode(errors="replace")) > _LONGEST for part in name.split("/")):
        raise DataError(f"{path}: image {number} has a file_name that no file can have: {name[:40]!r}")
    return name


def _last(address: str) -> str:
    try:
        return PurePosixPath(urlsplit(address).path).name or address
    except ValueError:
        return address


def _sized(row: Mapping[str, Any], notes: Notes, split: str) -> dict[str, Any]:
    """The row with width and height as whole numbers, or without them."""
    kept = {key: value for key, value in row.items() if key not in ("width", "height")}
    given = [row.get(side) for side in ("width", "height")]
    sides = [numeric(value) for value in given]
    if all(side is not None and side >= 1 and side.is_integer() for side in sides):
        return kept | {"width": int(sides[0] or 0), "height": int(sides[1] or 0)}
    if any(value not in (None, 0, "") for value in given):
        notes.add(NO_SIZE, split, f"width {given[0]!r}, height {given[1]!r}; the file's own are used")
    return kept


def _find(rows: list[dict[str, Any]], folder: Path, notes: Notes, split: str, *, own: bool) -> None:
    """Replace each name by its file's; a file that two names would have to share is given only to the one that names it exactly."""
    names = ImageNames(folder)
    found = [names.find(row["file_name"], Notes(), split) for row in rows]
    shared = Counter(path for path in found if path is not None)
    used = set()
    for row, path in zip(rows, found, strict=True):
        if path is None:
            continue
        exact = path.as_posix() == posixpath.normpath(row["file_name"])
        if shared[path] == 1 or exact:
            used.add(path)
            if not exact:
                notes.add(RENAMED, split, f"{row['file_name']} is {path.as_posix()}", image=path.as_posix())
            row["file_name"] = path.as_posix()
    for path in [path for path in names.files if path not in used] if own else []:
        notes.add(UNLISTED, split, path.as_posix(), image=path.as_posix())
