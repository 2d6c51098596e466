"""Text files as other tools and other machines write them."""

import codecs
import re
import unicodedata
from pathlib import Path

from deploy.errors import DataError
from deploy.machine import files
from stages.notes import Kind, Notes

ENCODING = Kind("text in an unusual encoding", "repaired", "files")
LEGACY = Kind("text in an unknown encoding", "assumed", "files")

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NOT_WESTERN = re.compile(rb"(?<![A-Za-z])[\x80-\xff]{2}|[\x80-\xff]{3}")
"""Western words have no more than two letters with accents in a row, and these follow a plain one: other texts are not Windows-1252."""


def read_text(path: Path, notes: Notes, split: str) -> str:
    """A text file: UTF-8, or UTF-16 with its byte order mark; otherwise Windows-1252, if it can be Western text in that.

    Raises:
        DataError: the file cannot be read, or is not such text.
    """
    raw = files.read_data(path)
    encoding = next((encoding for mark, encoding in _MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise DataError(f"{path}: cannot be read as {encoding} ({error})") from error
        text = _guess(path, raw, notes, split)
    else:
        if encoding != "utf-8":
            notes.add(ENCODING, split, f"{path.name}: read as {encoding}")
    if "\0" in text:
        raise DataError(f"{path}: not a text file; it has zero bytes")
    return text


def fold(text: str) -> str:
    """The text without differences of case and of composed accents."""
    return unicodedata.normalize("NFC", text).casefold()


def _guess(path: Path, raw: bytes, notes: Notes, split: str) -> str:
    text = raw.decode("cp1252", errors="replace")
    if "\ufffd" in text or _NOT_WESTERN.search(raw):
        raise DataError(f"{path}: neither UTF-8 nor Windows-1252 text; save it as UTF-8")
    notes.add(LEGACY, split, f"{path.name}: not UTF-8, read as Windows-1252")
    return text
