"""Ids as numbers, whatever type a tool wrote them in."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.notes import Kind, Notes

CONVERTED = Kind("id written as text or fraction", "repaired", "files")
NUMBERED = Kind("ids that are not numbers, numbered in order", "repaired", "files")

LARGEST = 2**53 - 1
"""Of the whole numbers that every JSON reader keeps exactly; larger ids count as text."""
_WHOLE = re.compile(r"[+-]?[0-9]{1,16}(\.0*)?")

Key = int | str


def key(value: Any) -> Key | None:
    """An id: a whole number if it is one in any spelling, otherwise a text; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        if not math.isfinite(value) or not value.is_integer():
            return None
        return int(value) if abs(value) <= LARGEST else repr(value)
    if isinstance(value, int):
        return value if abs(value) <= LARGEST else str(value)
    if not isinstance(value, str) or not value.strip():
        return None
    text = value.strip()
    return int(text.split(".")[0]) if _WHOLE.fullmatch(text) else text


class Ids:
    """The ids of one kind of entry: `number` has the whole number of each entry, in order."""

    def __init__(self, path: Path, kind: str, rows: Sequence[Mapping[str, Any]], notes: Notes, split: str) -> None:
        """Read them; an id that several entries share has the same number for all.

        Raises:
            DataError: an id is missing or neither number nor text, or two spellings mean one number.
        """
        keys = [_checked(path, kind, index, row) for index, row in enumerate(rows, start=1)]
        _check_spellings(path, kind, keys, rows)
        # _odd: whether the type of the ids has been noted
        self._path, self._kind, self._notes, self._split = path, kind, notes, split
        self._odd = True
        if any(isinstance(one, str) for one in keys):
            self._numbers: dict[Key, int] = {one: number for number, one in enumerate(dict.fromkeys(keys), start=1)}
            notes.add(NUMBERED, split, f"{path.name}: {kind} ids such as {next(one for one in keys if isinstance(one, str))!r}")
        else:
            self._numbers = {one: one for one in keys if isinstance(one, int)}
            other = next((row["id"] for row in rows if not isinstance(row["id"], int)), None)
            if other is not None:
                notes.add(CONVERTED, split, f"{path.name}: {kind} ids such as {other!r}")
            self._odd = other is not None
        self.number = [self._numbers[one] for one in keys]

    def find(self, value: Any) -> int | None:
        """The number of the entry that a reference means; None if there is none."""
        wanted = key(value)
        found = None if wanted is None else self._numbers.get(wanted)
        if found is not None and not self._odd and not isinstance(value, int):
            self._odd = True
            self._notes.add(CONVERTED, self._split, f"{self._path.name}: {self._kind}_id such as {value!r}")
        return found


def _checked(path: Path, kind: str, index: int, row: Mapping[str, Any]) -> Key:
    found = key(row.get("id"))
    if found is None:
        raise DataError(f"{path}: {kind} number {index} has id {row.get('id')!r}; ids are whole numbers, or text")
    return found


def _check_spellings(path: Path, kind: str, keys: Sequence[Key], rows: Sequence[Mapping[str, Any]]) -> None:
    spelled: dict[Key, Any] = {}
    for one, row in zip(keys, rows, strict=True):
        first = spelled.setdefault(one, row["id"])
        if repr(first) != repr(row["id"]):
            raise DataError(f"{path}: {kind} ids {first!r} and {row['id']!r} may be one or two; write all ids as whole numbers")
