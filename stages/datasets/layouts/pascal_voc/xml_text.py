"""XML files in any encoding, also in one that they do not declare, as trees with plain, lowercase tags."""

import codecs
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from deploy.errors import DataError
from deploy.machine import files
from stages.datasets.layouts.text import ENCODING
from stages.notes import Kind, Notes

UNDECLARED = Kind("XML that is not in the encoding it declares", "repaired", "files")
EITHER = Kind("XML that is readable in the encoding it declares and as UTF-8, read as declared", "assumed", "files")
AMPERSAND = Kind("XML with a bare &", "repaired", "files")
UNREADABLE = "\ufffd"
"""Stands for bytes that are not in the file's encoding."""

_STARTS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    "<".encode("utf-16-le"): "utf-16-le",
    "<".encode("utf-16-be"): "utf-16-be",
}
_DECLARATION = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
_ANY_DECLARATION = re.compile(r"^\s*<\?xml\b[^>]*\?>")
_BARE = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9A-Fa-f]+);)")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "iso8859-1": "cp1252", "ascii": "utf-8"}
"""Encodings that tools write under the name of a smaller one."""


def read_xml(path: Path, notes: Notes, split: str) -> ET.Element:
    """The root of an XML file.

    Raises:
        DataError: the file cannot be read, is not XML, or defines entities.
    """
    raw = files.read_data(path)
    text = _ANY_DECLARATION.sub("", _decode(path, raw, notes, split)).strip()
    if "<!ENTITY" in text:
        raise DataError(f"{path}: defines entities, which annotations do not need; remove the lines with <!ENTITY")
    root = _parse(path, text, notes, split)
    for node in root.iter():
        if isinstance(node.tag, str):
            node.tag = node.tag.rpartition("}")[2].lower()
    return root


def _parse(path: Path, text: str, notes: Notes, split: str) -> ET.Element:
    try:
        return ET.fromstring(text)  # noqa: S314 - entities are refused above
    except (ET.ParseError, ValueError) as error:
        mended = _BARE.sub("&amp;", text)
        if mended == text:
            raise DataError(f"{path}: not readable as XML ({error}); export or save it again") from error
    try:
        root = ET.fromstring(mended)  # noqa: S314 - entities are refused above
    except (ET.ParseError, ValueError) as error:
        raise DataError(f"{path}: not readable as XML ({error}); export or save it again") from error
    notes.add(AMPERSAND, split, f"{path.name}: read as &amp;")
    return root


def _decode(path: Path, raw: bytes, notes: Notes, split: str) -> str:
    """The text; bytes that do not belong to its encoding become UNREADABLE."""
    start = next((start for start in _STARTS if raw.startswith(start)), b"")
    found = _DECLARATION.match(raw[:300])
    declared = found[1].decode("ascii").lower() if found else "utf-8"
    encoding = _STARTS.get(start) or _usable(declared)
    if start or (encoding != "utf-8" and not _is_utf8(raw)):
        try:
            text = raw[len(start) :].decode(encoding) if encoding == "utf-8" else raw.decode(encoding)
        except (LookupError, ValueError):  # not a text encoding, or not this one
            pass
        else:
            if not raw.isascii() or encoding.startswith("utf-16"):
                notes.add(EITHER if not start and _has_utf8(raw) else ENCODING, split, f"{path.name}: read as {encoding}")
            return text
    text = raw.decode("utf-8", errors="replace")
    if UNREADABLE in text:
        notes.add(UNDECLARED, split, f"{path.name}: not {declared}; the class names are readable")
    elif not raw.isascii() and declared not in ("utf-8", "utf8"):
        notes.add(UNDECLARED, split, f"{path.name}: declares {declared}, read as utf-8")
    return text


def _usable(declared: str) -> str:
    """The encoding in Python's spelling; UTF-8 if there is no such encoding, or one in which the declaration itself would be unreadable."""
    try:
        name = codecs.lookup(declared).name
    except LookupError:
        return "utf-8"
    return "utf-8" if name.startswith(("utf-16", "utf-32", "utf-7")) else _WIDER.get(name, name)


def _is_utf8(raw: bytes) -> bool:
    """Whether the bytes are UTF-8 beyond doubt: ASCII only, or characters of three bytes or more, which no other encoding imitates."""
    return _has_utf8(raw) and all(character < "\x80" or character >= "\u0800" for character in raw.decode("utf-8"))


def _has_utf8(raw: bytes) -> bool:
    """Whether the bytes can be UTF-8."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
