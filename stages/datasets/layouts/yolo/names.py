"""Class names by number, however a data file or a list writes them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from deploy.machine import files
from deploy.machine.documents import parse_json
from stages.datasets.layouts import list_files
from stages.datasets.layouts.text import read_text
from stages.datasets.layouts.yolo import head, kinds
from stages.datasets.layouts.yolo.head import DataFile
from stages.notes import Notes

LISTS = ("classes.txt", "predefined_classes.txt", "labels.txt", "names.txt", "class_names.txt", "_darknet.labels")
LIST_SUFFIXES = (".names",)
_NOTES = "notes.json"
_NUMBERED = re.compile(r"^(\d{1,9})(?:\s*[:=,;]\s*|\s+)(.+)$")
_QUOTED = re.compile(r"""^(["'])(.+)\1,?$""")


def is_list(path: Path) -> bool:
    """Whether a file lists class names, by its name."""
    return path.name.lower() in LISTS or path.suffix.lower() in LIST_SUFFIXES


def lists(root: Path) -> list[Path]:
    """Every file in or below a folder that lists class names, those nearest to the root first."""
    found = [path for path in list_files(root, (".txt", ".labels", *LIST_SUFFIXES)) if is_list(path)]
    return sorted(found, key=lambda path: (len(path.parts), path))


def files_of(root: Path, data: DataFile) -> list[Path]:
    """Every file that class names may be read from, besides the data file."""
    named = _file(root, data.names.strip()) if isinstance(data.names, str) else None
    others = [path for path in (named, root / _NOTES) if path is not None and path.is_file()]
    return [*dict.fromkeys((*lists(root), *others))]


def read(root: Path, data: DataFile, given: Sequence[str] | None, notes: Notes, split: str) -> dict[int, str]:
    """The names by class number: those given, otherwise those of the data file, otherwise those of a list.

    Raises:
        DataError: there are none, they cannot be understood, or two lists differ.
    """
    if given:
        return _checked("data.names", dict(enumerate(given)))
    where = str(data.path or root)
    if data.names and data.names not in head.NOTHING:
        found = _checked(where, _understood(root, data, data.names, notes, split))
        _compare(root, found, notes, split)
    else:
        found = _listed(root, notes, split)
    if not found:
        only = "" if data.num_classes is None else f", only nc: {data.num_classes}"
        raise DataError(f"{where}: no class names{only}; list them as names in data.yaml, in classes.txt or as data.names")
    if data.num_classes is not None and data.num_classes != len(found):
        notes.add(kinds.NUM_CLASSES, split, f"{Path(where).name}: nc is {data.num_classes}; the {len(found)} names are used")
    return found


def _understood(root: Path, data: DataFile, value: Any, notes: Notes, split: str) -> dict[int, str]:
    where = str(data.path)
    if isinstance(value, list):
        if value and all(isinstance(one, dict) for one in value):
            notes.add(kinds.NAMES, split, f"{Path(where).name}: a list of mappings")
            return _merged(where, value)
        return dict(enumerate(value))
    if isinstance(value, dict):
        return _by_number(where, value, notes, split)
    text = str(value).strip()
    file = _file(root, text)
    if file is not None:
        return _lines(file, notes, split)
    if data.path is not None and data.path.suffix == ".data":
        return _listed(root, notes, split)
    notes.add(kinds.NAMES, split, f"{Path(where).name}: names is text: {text[:60]}")
    return _from_text(root, data, text, notes, split)


def _from_text(root: Path, data: DataFile, text: str, notes: Notes, split: str) -> dict[int, str]:
    """Names written as one text: a list in quotes, one name per line, or names between commas."""
    if text.startswith(("[", "{")) or "\n" in text:
        try:
            inner = head.load(text)
        except ValueError:
            inner = text
        if isinstance(inner, list | dict):
            return _understood(root, data, inner, notes, split)
    if "\n" in text:
        return dict(enumerate(line.strip() for line in text.splitlines()))
    if "," in text or ";" in text:
        return dict(enumerate(part.strip().strip("'\"") for part in re.split("[,;]", text)))
    if re.search(r"[/\\]|\.(txt|names|csv|labels)$", text):
        raise DataError(f"{data.path}: names is {text}, but there is no such file; list the names themselves")
    words = text.split()
    return dict(enumerate(words)) if data.num_classes == len(words) else {0: text}


def _by_number(where: str, found: Mapping[Any, Any], notes: Notes, split: str) -> dict[int, str]:
    if all(_number(key) is not None for key in found):
        return _numbered(where, [(_number(key), name) for key, name in found.items()])
    if all(_number(value) is not None for value in found.values()):
        notes.add(kinds.NAMES, split, f"{Path(where).name}: names with their numbers, not numbers with their names")
        return _numbered(where, [(_number(value), name) for name, value in found.items()])
    raise DataError(f"{where}: names should be a list, or a mapping from numbers to names, got {str(found)[:80]}")


def _merged(where: str, rows: Sequence[Mapping[Any, Any]]) -> dict[int, str]:
    """`[{0: red}, {1: green}]`, or `[{id: 0, name: red}, ...]`."""
    pairs: list[tuple[int | None, Any]] = []
    for row in rows:
        named = row.get("name")
        pairs += [(_number(row.get("id")), named)] if named is not None else [(_number(key), name) for key, name in row.items()]
    return _numbered(where, pairs)


def _numbered(where: str, pairs: Sequence[tuple[int | None, Any]]) -> dict[int, str]:
    numbers = [number for number, _ in pairs]
    if None in numbers or len(set(numbers)) < len(numbers):
        raise DataError(f"{where}: every one of names needs a number of its own, got {', '.join(map(str, numbers[:10]))}")
    return dict(sorted((number, name) for number, name in pairs if number is not None))


def _number(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _file(root: Path, text: str) -> Path | None:
    """The file that `names` may be: below the folder, wherever the machine that wrote it had it."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if "\n" in text or not parts or "," in text or max(map(len, parts)) > 60:
        return None
    tails = [root.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((path for path in tails if path.is_file()), None)


def _lines(path: Path, notes: Notes, split: str) -> dict[int, str]:
    """One name per line; a blank line or a comment among them is refused, because tools disagree on whether it counts.

    Raises:
        DataError: as above, or several names in the only line.
    """
    lines = [line.strip() for line in read_text(path, notes, split).rstrip().splitlines()]
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith(("# ", "//")):
            what = "comment" if line else "blank line"
            raise DataError(f"{path}:{number}: a {what} among the class names; write one name per line and nothing else")
    if len(lines) == 1 and "," in lines[0]:
        raise DataError(f"{path}:1: several class names in one line; write one name per line")
    numbered = [_NUMBERED.match(line) for line in lines]
    if lines and all(match is not None and int(match[1]) == index for index, match in enumerate(numbered)):
        notes.add(kinds.NAMES, split, f"{path.name}: numbered lines")
        lines = [match[2].strip() for match in numbered if match is not None]
    quoted = [_QUOTED.match(line) for line in lines]
    if lines and all(quoted):
        notes.add(kinds.NAMES, split, f"{path.name}: names in quotes")
        lines = [match[2].strip() for match in quoted if match is not None]
    return _checked(str(path), dict(enumerate(lines))) if lines else {}


def _listed(root: Path, notes: Notes, split: str) -> dict[int, str]:
    found: dict[int, str] = {}
    first: Path | None = None
    for path in lists(root):
        names = _lines(path, notes, split)
        if found and names and names != found:
            raise DataError(f"{path}: other class names than {first}; keep one, or list the names as data.names")
        found, first = (found, first) if found else (names, path)
    return found or _label_studio(root)


def _label_studio(root: Path) -> dict[int, str]:
    """The categories of Label Studio's notes.json, which it writes next to classes.txt."""
    path = root / _NOTES
    try:
        rows = parse_json(files.read_bytes(path)).get("categories", []) if path.is_file() else []
    except (OSError, ValueError, AttributeError):
        return {}  # anyone's notes.json
    pairs = [(_number(row.get("id")), row.get("name")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return _checked(str(path), _numbered(str(path), pairs)) if pairs else {}


def _compare(root: Path, found: Mapping[int, str], notes: Notes, split: str) -> None:
    """Note a list next to the data file that names other classes."""
    for path in lists(root):
        try:
            other = _lines(path, Notes(), split)
        except DataError:
            continue
        if other and list(other.values()) != list(found.values()):
            notes.add(kinds.OTHER_NAMES, split, f"{path.name} lists other names than the data file, whose names are used")
            return


def _checked(where: str, found: Mapping[int, Any]) -> dict[int, str]:
    """Stripped names.

    Raises:
        DataError: one is empty, not text, or occurs twice.
    """
    names: dict[int, str] = {}
    for number, name in found.items():
        text = name.strip() if isinstance(name, str) else ""
        if not text:
            raise DataError(f"{where}: class {number} has no name, got {str(name)[:40]!r}; every class needs its own")
        if text in names.values():
            raise DataError(f"{where}: two classes are named '{text}'; every class needs its own name")
        names[number] = text
    return names
