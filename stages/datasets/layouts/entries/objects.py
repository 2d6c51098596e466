"""The annotations of a COCO file: references resolved, ids unique, a box for each."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets.layouts.entries.boxes import are_fractions, extent, numeric, read_box, read_mask, turned, usable
from stages.datasets.layouts.entries.classes import Classes
from stages.datasets.layouts.entries.document import Entries
from stages.datasets.layouts.entries.ids import Key, key
from stages.datasets.layouts.entries.pictures import Pictures
from stages.datasets.tables.rows import Rows, light
from stages.notes import Kind, Notes

ORPHAN = Kind("box of an image that is not listed", "left out", "boxes")
BY_NAME = Kind("class or image given by name instead of id", "repaired", "boxes")
NUMBERED = Kind("annotation without an id of its own, numbered", "repaired", "boxes")
MENDED = Kind("box written in an unusual form", "repaired", "boxes")
FROM_MASK = Kind("box taken from its mask", "repaired", "boxes")
NEITHER = Kind("annotation without box and mask", "left out", "boxes")
TURNED = Kind("rotated box, replaced by the upright one around it", "repaired", "boxes")
REWRITTEN = Kind("mask written in an unusual form", "repaired", "masks")
CROWD = Kind("iscrowd written in an unusual form", "repaired", "boxes")

FIXED = "_fixed"
FORM, PX = "form", "px"
"""Marks a row whose box is x, y, width, height for certain, and perhaps px as well; empty: as the file's boxes are. It is removed before
the rows are handed on."""
_CROWD: dict[Any, int] = {None: 0, "": 0, "0": 0, "1": 1, "false": 0, "true": 1}


def read(document: Entries, pictures: Pictures, classes: Classes, notes: Notes, split: str) -> Rows:
    """Every annotation that has an image and a box or mask, with whole numbers for all ids.

    Raises:
        DataError: a class that the file does not list, an id that is neither number nor text, or no annotation has an image.
    """
    rows = Rows.kept(_read(document, pictures, classes, notes, split))
    _check_references(document, pictures)
    return rows


def _check_references(document: Entries, pictures: Pictures) -> None:
    """Refuse references of which none is an image's id, or that seem to be counted from 0 where images are counted from 1, or so.

    Raises:
        DataError: they are so.
    """
    given = [row.get("image_id") for row in light(document.annotations)]
    lost = {key(one) for one in given if pictures.find(one) is None}
    wanted, ids = {key(one) for one in given}, {*pictures.ids.number}
    if given and lost == wanted:
        text = f"no image has the image_id of any annotation, the first {given[0]!r}"
        raise DataError(f"{document.path}: {text}; image ids and image_id must match")
    for start, beyond, unused in ((1, 0, len(ids)), (0, len(ids), 0)):
        if lost == {beyond} and unused not in wanted and ids == {*range(start, start + len(ids))}:
            text = f"images are counted from {start}, image_id seems to be from {1 - start}: {beyond} is no image's, and none is {unused}"
            raise DataError(f"{document.path}: {text}; image ids and image_id must match")


def _read(document: Entries, pictures: Pictures, classes: Classes, notes: Notes, split: str) -> Iterator[dict[str, Any]]:
    path = document.path
    numbers = _numbers(path, light(document.annotations), notes, split)
    for number, row in zip(numbers, document.annotations, strict=True):
        image = pictures.find(row.get("image_id"))
        if image is None:
            notes.add(ORPHAN, split, f"annotation {number} in {path.name} has image_id {row.get('image_id')!r}")
            continue
        if isinstance(row.get("image_id"), str) and pictures.ids.find(row["image_id"]) is None:
            notes.add(BY_NAME, split, f"annotation {number} in {path.name} has image_id {row['image_id']!r}")
        known = {"id": number, "image_id": image, "category_id": _category(path, number, row, classes, notes, split)}
        kept = _placed(path, row | known | {"iscrowd": _crowd(path, number, row, notes, split)}, notes, split)
        if kept is not None:
            yield kept


def _numbers(path: Path, rows: Sequence[Mapping[str, Any]], notes: Notes, split: str) -> list[int]:
    """The annotations' ids; if one is missing, text or not unique, all are numbered in order."""
    keys: list[Key | None] = []
    for index, row in enumerate(rows, start=1):
        given = row.get("id")
        found = key(given)
        if found is None and given not in (None, ""):
            raise DataError(f"{path}: annotation number {index} has id {given!r}; ids are whole numbers, or text")
        keys.append(found)
    numbers = [one for one in keys if isinstance(one, int)]
    if len(numbers) == len(rows) == len(set(numbers)):
        return numbers
    seen: set[Key | None] = set()
    for index, (one, row) in enumerate(zip(keys, rows, strict=True), start=1):
        if not isinstance(one, int) or one in seen:
            notes.add(NUMBERED, split, f"annotation number {index} in {path.name}, id {row.get('id')!r}")
        seen.add(one)
    return list(range(1, len(rows) + 1))


def _category(path: Path, number: int, row: Mapping[str, Any], classes: Classes, notes: Notes, split: str) -> int:
    given = row.get("category_id")
    found = classes.ids.find(given)
    if found is not None:
        return found
    named = [one for one, name in classes.names.items() if isinstance(given, str) and name == given.strip()]
    if len(named) == 1:
        notes.add(BY_NAME, split, f"annotation {number} in {path.name} has category_id {given!r}")
        return named[0]
    shown = ", ".join(map(str, sorted(classes.names)[:10])) + (", ..." if len(classes.names) > 10 else "")
    raise DataError(f"{path}: annotation {number} has unknown category_id {given!r}; known: {shown}")


def _crowd(path: Path, number: int, row: Mapping[str, Any], notes: Notes, split: str) -> int:
    given = row.get("iscrowd")
    if isinstance(given, bool | int | float) and given in (0, 1):
        return int(given)
    found = _CROWD.get(given.strip().lower() if isinstance(given, str) else given) if given is None or isinstance(given, str) else None
    if found is None:
        raise DataError(f"{path}: annotation {number} has iscrowd {given!r}; write 0 or 1")
    if given is not None:
        notes.add(CROWD, split, f"annotation {number} in {path.name}, iscrowd {given!r}")
    return found


def _placed(path: Path, row: dict[str, Any], notes: Notes, split: str) -> dict[str, Any] | None:
    """The row with its box as four numbers; a box that means nothing stays for cleaning to report; None if there is nothing."""
    where = f"annotation {row['id']} in {path.name}"
    mask, rewritten = read_mask(row.get("segmentation"))
    if rewritten:
        notes.add(REWRITTEN, split, where)
    written = read_box(row.get("bbox"))
    if written.mended:
        notes.add(MENDED, split, f"{where}, bbox {str(row['bbox'])[:80]}")
    row = row | {"bbox": written.value, FIXED: FORM if written.fixed else ""} | ({"segmentation": mask} if mask else {})
    box = usable(written.value)
    if box is None or box[2] <= 0 or box[3] <= 0:
        around = extent(mask)
        if around is not None:
            notes.add(FROM_MASK, split, f"{where}, bbox {str(written.value)[:80]}")
            return row | {"bbox": list(around), FIXED: FORM if are_fractions(mask) else PX}
        if written.value is None:
            notes.add(NEITHER, split, where)
            return None
        return row
    attributes = row.get("attributes")
    degrees = numeric(attributes.get("rotation")) if isinstance(attributes, Mapping) else None
    if degrees and degrees % 180 and extent(mask) is None:
        notes.add(TURNED, split, f"{where}, rotation {degrees:g} degrees")
        return row | {"bbox": list(turned(box, degrees)), FIXED: FORM}
    return row
