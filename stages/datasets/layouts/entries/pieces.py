"""Reads a COCO file piece by piece: neither its text nor its annotations are ever all in memory.

Only plain files are read so: UTF-8, one object, nothing in it twice, within the bounds of deploy/machine/documents.py. Everything else
is left to the reader of entire files, which names what is wrong.
"""

import codecs
import errno
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from deploy.machine.documents import DEEPEST, LONGEST_NUMBER, has_long_number, levels
from deploy.machine.files import open_regular
from stages.datasets.layouts.text import ENCODING
from stages.datasets.tables.rows import Row, Rows
from stages.notes import Notes

_PIECE = 2**22
_MOST = 2**26
"""Characters of a single value: what is larger is not an entry of an annotation file."""
_MARGIN = 2**10
"""Characters after a value that must be known for it to be complete, as those of a number might go on."""
_SPACE = re.compile(r"[ \t\n\r]*")


class _Unusual(ValueError):
    """A file that has to be read as a whole."""


def read(
    path: Path, notes: Notes, split: str, lists: Collection[str], spooled: Collection[str], until: str | None = None
) -> dict[str, Any] | None:
    """The values of a file's keys: `lists` as lists of rows, of which `spooled` are not in memory, and None for all other keys.

    Args:
        until: the last key to be read; what comes after it is not looked at.

    Returns:
        None if the file has to be read as a whole.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        with open_regular(path) as file:
            scanner = _Scanner(file.read)
            found = _document(scanner, lists, spooled, until)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of the temporary file
            raise
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):
        return None
    if scanner.marked:
        notes.add(ENCODING, split, f"{path.name}: read as utf-8-sig")
    return found


def _document(scanner: "_Scanner", lists: Collection[str], spooled: Collection[str], until: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    scanner.take("{")
    while scanner.next() != "}":
        if found:
            scanner.take(",")
        key = scanner.value()
        if not isinstance(key, str) or key in found:
            raise _Unusual
        scanner.take(":")
        found[key] = _value(scanner, of_rows=key in lists, is_spooled=key in spooled)
        if key == until:
            return found
    scanner.take("}")
    if scanner.next():
        raise _Unusual
    return found


def _value(scanner: "_Scanner", *, of_rows: bool, is_spooled: bool) -> Any:
    """The next value if it is a list of rows that is asked for; any other one is passed."""
    if scanner.next() != "[":
        scanner.value()
        return None
    if of_rows:
        rows = map(_row, scanner.elements())
        return Rows.kept(rows) if is_spooled else list(rows)
    for _ in scanner.elements():
        pass
    return None


def _row(value: Any) -> Row:
    if not isinstance(value, dict):
        raise _Unusual
    return {sys.intern(key): one for key, one in value.items()}  # otherwise each row has keys of its own


class _Scanner:
    """A place in a text of which only the piece around it is in memory; `marked`: it starts with a byte order mark."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.marked = False
        self._texts = self._decoded(read)
        self._text, self._place = "", 0
        self._decode = json.JSONDecoder().raw_decode

    def next(self) -> str:
        """The next character that is not space, empty at the end; it is not taken."""
        while True:
            match = _SPACE.match(self._text, self._place)
            assert match is not None
            self._place = match.end()
            if self._place < len(self._text) or not self._more():
                return self._text[self._place : self._place + 1]

    def take(self, character: str) -> None:
        """Go past the next character, which must be this one."""
        if self.next() != character:
            raise _Unusual
        self._place += 1

    def value(self) -> Any:
        """Go past the next value."""
        self.next()
        while True:
            try:
                found, end = self._decode(self._text, self._place)
            except ValueError:
                if not self._more():
                    raise
                continue
            if end + _MARGIN < len(self._text) or not self._more():
                break
        brackets = self._text.count("[", self._place, end) + self._text.count("{", self._place, end)
        if brackets > DEEPEST - 2 and levels(found) > DEEPEST - 2:
            raise _Unusual
        self._place = end
        return found

    def elements(self) -> Iterator[Any]:
        """Go past a list, one of its values after the other."""
        self.take("[")
        is_first = True
        while self.next() != "]":
            if not is_first:
                self.take(",")
            is_first = False
            yield self.value()
        self.take("]")

    def _more(self) -> bool:
        """Read another piece; what has been passed is forgotten."""
        if len(self._text) - self._place > _MOST:
            raise _Unusual
        piece = next(self._texts, None)
        if piece is None:
            return False
        self._text, self._place = self._text[self._place :] + piece, 0
        return True

    def _decoded(self, read: Callable[[int], bytes]) -> Iterator[str]:
        decoder, seen = codecs.getincrementaldecoder("utf-8")(), b""
        while piece := read(_PIECE):
            if not seen and piece.startswith(codecs.BOM_UTF8):
                self.marked, piece = True, piece[len(codecs.BOM_UTF8) :]
            seen = seen[-LONGEST_NUMBER:] + piece
            if b"\0" in piece or has_long_number(seen):
                raise _Unusual
            yield decoder.decode(piece)
        decoder.decode(b"", final=True)
