"""The categories of COCO files: read from each, then brought to those of the training split."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets.layouts.entries.document import Entries
from stages.datasets.layouts.entries.ids import Ids
from stages.datasets.layouts.text import fold
from stages.datasets.tables.rows import Row, Rows
from stages.notes import Kind, Notes

TWICE = Kind("class listed twice", "repaired", "classes")
RENAMED = Kind("class name written in an unusual form", "repaired", "classes")
ROOT = Kind("class that only groups all others, as Roboflow writes it", "repaired", "classes")
SAME_NAME = Kind("class without objects that shares its name with another", "repaired", "classes")
UNLISTED = Kind("class that train has but the split does not list", "repaired", "classes")
REMAPPED = Kind("class with a different id or spelling in train", "repaired", "classes")
UNKNOWN = Kind("class without objects that train does not have", "left out", "classes")

_NO_PARENT = (None, "", "none", "None")


@dataclass(frozen=True)
class Classes:
    """A file's categories: their rows with whole numbers as ids, and their names by number."""

    path: Path
    rows: list[dict[str, Any]]
    ids: Ids
    names: Mapping[int, str]


@dataclass
class Reading:
    """A split while it is read: its classes, the rows of its annotations, whose category_id may still change, and their number by it."""

    classes: Classes
    annotations: Rows
    num_objects: Counter[int] = field(init=False)

    def __post_init__(self) -> None:
        self.num_objects = Counter(row["category_id"] for row in self.annotations.light())

    def renumber(self, change: Mapping[int, int]) -> None:
        """Replace the categories of the annotations."""
        if any(change[number] != number for number in self.num_objects):
            self.annotations = self.annotations.changed(partial(_renumbered, change=change))


def read(document: Entries, notes: Notes, split: str) -> Classes:
    """The categories of a file, each once.

    Raises:
        DataError: a category without id or name, or one id with two names.
    """
    path = document.path
    ids = Ids(path, "category", document.categories, notes, split)
    rows: dict[int, dict[str, Any]] = {}
    for number, row in zip(ids.number, document.categories, strict=True):
        name = _name(path, number, row, notes, split)
        if number not in rows:
            rows[number] = row | {"id": number, "name": name}
        elif rows[number]["name"] == name:
            notes.add(TWICE, split, f"{name} in {path.name}")
        else:
            raise DataError(f"{path}: two categories have the id {number}: {rows[number]['name']} and {name}; give each its own id")
    return Classes(path, list(rows.values()), ids, {number: row["name"] for number, row in rows.items()})


def unify(readings: Mapping[str, Reading], notes: Mapping[str, Notes]) -> list[dict[str, Any]]:
    """The categories of train (without train: of the first split); the other splits' annotations then refer to them.

    Raises:
        DataError: two classes of one name have objects, or a split has objects of a class that train does not have.
    """
    unused = {split: _roots(reading) for split, reading in readings.items()}
    used = any(reading.num_objects[number] for split, reading in readings.items() for number in unused[split])
    left = {split: _kept(readings[split], set() if used else unused[split], notes[split], split) for split in readings}
    _check_same_names(readings, left)
    for split, reading in readings.items():
        left[split] = _first_of_each_name(reading, left[split], notes[split], split)
    reference = "train" if "train" in readings else next(iter(readings))
    names = {number: readings[reference].classes.names[number] for number in left[reference]}
    for split, reading in readings.items():
        if split != reference:
            _adopt(reading, left[split], names, readings[reference].classes.path, notes[split], split)
    return [row for row in readings[reference].classes.rows if row["id"] in names]


def _name(path: Path, number: int, row: Mapping[str, Any], notes: Notes, split: str) -> str:
    given = row.get("name")
    empty = isinstance(given, bool) or (isinstance(given, float) and not math.isfinite(given))  # NaN is pandas' missing name
    if not isinstance(given, str | int | float) or empty or not str(given).strip("\ufeff \t\r\n\u00a0"):
        raise DataError(f"{path}: category {number} has no name but {given!r}; name it")
    name = str(given).strip("\ufeff \t\r\n\u00a0")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: category {number} has a name that is not text: {given!r}") from error
    if name != given:
        notes.add(RENAMED, split, f"{given!r} in {path.name} is {name!r}")
    return name


def _roots(reading: Reading) -> set[int]:
    """The category of the smallest id, if all others name it as their supercategory and it has none."""
    rows = sorted(reading.classes.rows, key=lambda row: int(row["id"]))
    first, others = rows[0], rows[1:]
    groups = bool(others) and all(isinstance(row.get("supercategory"), str) for row in others)
    groups = groups and all(row["supercategory"].strip() == first["name"] for row in others)
    return {first["id"]} if groups and first.get("supercategory") in _NO_PARENT else set()


def _kept(reading: Reading, dropped: set[int], notes: Notes, split: str) -> list[int]:
    for number in dropped:
        notes.add(ROOT, split, f"{reading.classes.names[number]} (id {number}) in {reading.classes.path.name}")
    return [row["id"] for row in reading.classes.rows if row["id"] not in dropped]


def _check_same_names(readings: Mapping[str, Reading], left: Mapping[str, list[int]]) -> None:
    """Refuse a name that two categories share if both have objects, in one split or in several."""
    used: dict[str, dict[int, Path]] = {}
    for split, reading in readings.items():
        counts, names = reading.num_objects, reading.classes.names
        several = Counter(names[number] for number in left[split])
        for number in left[split]:
            if several[names[number]] > 1 and counts[number]:
                used.setdefault(names[number], {})[number] = reading.classes.path
    for name, paths in used.items():
        if len(paths) > 1:
            numbers = " and ".join(map(str, paths))
            raise DataError(f"{next(iter(paths.values()))}: two categories are named '{name}' (ids {numbers}); give each its own name")


def _first_of_each_name(reading: Reading, left: list[int], notes: Notes, split: str) -> list[int]:
    counts, names = reading.num_objects, reading.classes.names
    chosen: dict[str, int] = {}
    for number in sorted(left, key=lambda one: counts[one] == 0):
        if names[number] in chosen:
            notes.add(SAME_NAME, split, f"{names[number]} (id {number}) in {reading.classes.path.name}")
        chosen.setdefault(names[number], number)
    return [number for number in left if number in chosen.values()]


def _adopt(reading: Reading, left: list[int], names: Mapping[int, str], source: Path, notes: Notes, split: str) -> None:
    """Let a split's annotations refer to the reference's categories."""
    counts, path = reading.num_objects, reading.classes.path
    own = {number: reading.classes.names[number] for number in left}
    change: dict[int, int] = {}
    for number, name in own.items():
        target = _match(name, list(own.values()), names)
        if target is None and counts[number]:
            what = f"{counts[number]} objects of class '{name}'"
            raise DataError(f"{path}: {what}, which {source} does not have; list it there too, or remove its objects here")
        if target is None:
            notes.add(UNKNOWN, split, f"{name} in {path.name}")
            continue
        change[number] = target
        if (number, name) != (target, names[target]):
            notes.add(REMAPPED, split, f"{name} (id {number}) in {path.name} is {names[target]} (id {target})")
    for number, name in names.items():
        if number not in change.values():
            notes.add(UNLISTED, split, f"{name} in {path.name}")
    reading.renumber(change)


def _renumbered(row: Row, change: Mapping[int, int]) -> Row:
    row["category_id"] = change[row["category_id"]]
    return row


def _match(name: str, own: list[str], names: Mapping[int, str]) -> int | None:
    """The category of that name; otherwise the only one that differs in upper and lower case, or in how accents are composed."""
    exact = [number for number, other in names.items() if other == name]
    if exact:
        return exact[0]
    alike = [number for number, other in names.items() if fold(other) == fold(name)]
    unique = len(alike) == 1 and sum(fold(other) == fold(name) for other in own) == 1
    return alike[0] if unique else None
