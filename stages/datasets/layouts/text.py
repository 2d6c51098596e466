"""Text files as other tools and other machines write them."""

import codecs
import re
from pathlib import Path

from deploy.errors import DataError
from deploy.machine import files
from stages.notes import Kind, Notes

ENCODING = Kind("text in an unusual encoding", "repaired", "files")
LEGACY = Kind("text in an unknown encoding", "assumed", "files")

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def read_text(path: Path, notes: Notes, split: str) -> str:
    """A text file: UTF-8, UTF-16 with its byte order mark, or the encoding that an XML declaration names; otherwise Windows' cp1252.

    Raises:
        DataError: the file cannot be read, or is not text.
    """
    try:
        raw = files.read_bytes(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    encoding = _encoding(raw)
    try:
        text = raw.decode(encoding)
    except (LookupError, UnicodeDecodeError) as error:
        if encoding != "utf-8":
            raise DataError(f"{path}: cannot be read as {encoding} ({error})") from error
        text = _guess(path, raw, notes, split)
    else:
        if encoding != "utf-8":
            notes.add(ENCODING, split, f"{path.name}: read as {encoding}")
    if "\0" in text:
        raise DataError(f"{path}: not a text file; it has zero bytes")
    return text


def _encoding(raw: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if raw.startswith(mark):
            return encoding
    declared = _DECLARED.match(raw[:200])
    named = declared[1].decode("ascii").lower() if declared else "utf-8"
    return "utf-8" if named in ("utf8", "utf-8", "us-ascii", "ascii") else named


def _guess(path: Path, raw: bytes, notes: Notes, split: str) -> str:
    text = raw.decode("cp1252", errors="replace")
    if "\ufffd" in text:
        raise DataError(f"{path}: neither UTF-8 nor Windows-1252 text; save it as UTF-8")
    notes.add(LEGACY, split, f"{path.name}: not UTF-8, read as Windows-1252")
    return text
