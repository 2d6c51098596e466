"""The rules that COCO object-detection dictionaries must meet before anything else is checked.

A violation cannot be removed object by object, so the data is refused: ids that are not whole numbers or occur twice,
annotations without their image, unknown categories, splits that name different categories.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.tables.rows import Rows, light

NO_BOX = "no usable box to learn from"
REQUIRED_SPLITS = ("train", "val")
"""Splits that training data must have."""


def check_splits(sources: Mapping[str, Source], required: Sequence[str] = REQUIRED_SPLITS) -> None:
    """Check every split, that those `required` exist, and that all name the same categories.

    Raises:
        DataError: the first rule broken.
    """
    check_present(sources, required)
    for split, source in sources.items():
        check(split, source.coco)
    first = next(iter(sources))
    expected = categories(sources[first].coco)
    for split, source in sources.items():
        found = categories(source.coco)
        if found != expected:
            number = min(key for key in {*expected, *found} if expected.get(key) != found.get(key))
            there, here = (repr(names[number]) if number in names else "nothing" for names in (expected, found))
            raise DataError(f"{split}: category {number} is {here} but {there} in {first}; all splits need the same categories")


def check_present(found: Iterable[str], required: Sequence[str] = REQUIRED_SPLITS) -> None:
    """Check that no required split is missing.

    Raises:
        DataError: one is; the message lists the splits found and, for training data, the options that help.
    """
    names = list(found)
    missing = [split for split in required if split not in names]
    if missing:
        there = ", ".join(names) or "no splits"
        remedy = f"; set {_remedy(names)}" if names and set(required) == set(REQUIRED_SPLITS) else ""
        raise DataError(f"no {missing[0]} split: the data has {there}, and {' and '.join(required)} {_are(required)} needed{remedy}")


def _are(words: Sequence[str]) -> str:
    return "are" if len(words) > 1 else "is"


def _remedy(names: Sequence[str]) -> str:
    """The options that make a train and a val split of what is there."""
    share = "data.val_share: 0.2"
    spare = [name for name in names if name not in REQUIRED_SPLITS]
    if "train" in names:
        part = f"{share}, which holds out a part of train"
        return f"data.splits: {{val: {spare[0]}}}, or {part}" if spare else part
    if spare and "val" in names:
        return f"data.splits: {{train: {spare[0]}}}"
    return f"data.splits: {{train: {names[0]}}} and {share}, which holds out a part of it as val"


def categories(coco: Mapping[str, Any]) -> dict[int, str]:
    """Names by category id, ascending; a network's label is the position in this order."""
    return {int(row["id"]): str(row["name"]) for row in sorted(coco["categories"], key=lambda row: int(row["id"]))}


def check(split: str, coco: Mapping[str, Any]) -> None:
    """Check one split.

    Raises:
        DataError: the first rule broken.
    """
    for key in ("images", "annotations", "categories"):
        rows = coco.get(key)
        if not isinstance(rows, Rows) and not (isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)):
            raise DataError(f"{split}: '{key}' should be a list of objects; is it a COCO object-detection file?")
    if not coco["categories"]:
        raise DataError(f"{split}: no categories; name at least one")
    images = _ids(split, "image", coco["images"])
    known = _ids(split, "category", coco["categories"])
    annotations = light(coco["annotations"])
    _ids(split, "annotation", annotations)
    _check_names(split, coco)
    for row in annotations:
        if not _whole(row.get("image_id")) or row["image_id"] not in images:
            raise DataError(f"{split}: annotation {row['id']} has image_id {row.get('image_id')!r}, which no image has")
        if not _whole(row.get("category_id")) or row["category_id"] not in known:
            shown = ", ".join(map(str, sorted(known)[:10])) + (", ..." if len(known) > 10 else "")
            raise DataError(f"{split}: annotation {row['id']} has unknown category_id {row.get('category_id')!r}; known: {shown}")


def _check_names(split: str, coco: Mapping[str, Any]) -> None:
    for row in coco["images"]:
        if not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise DataError(f"{split}: image {row['id']} has no file_name")
    for row in coco["categories"]:
        if not isinstance(row.get("name"), str) or not row["name"]:
            raise DataError(f"{split}: category {row['id']} has no name")
    twice = _first_twice(row["name"] for row in coco["categories"])
    if twice is not None:
        raise DataError(f"{split}: two categories are named '{twice}'; give each its own name")


def _ids(split: str, kind: str, rows: Sequence[Mapping[str, Any]]) -> set[int]:
    found = [row.get("id") for row in rows]
    for number, value in enumerate(found, start=1):
        if not _whole(value):
            raise DataError(f"{split}: {kind} number {number} has id {value!r}; ids are whole numbers")
    twice = _first_twice(found)
    if twice is not None:
        raise DataError(f"{split}: two {kind} entries have the id {twice}; ids must be unique")
    return {value for value in found if value is not None}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _first_twice(values: Iterable[Any]) -> Any:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
