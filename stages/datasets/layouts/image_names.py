"""Finding the image file that an annotation means, whatever machine or tool wrote its name."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from stages.datasets.layouts import SUFFIXES, list_images
from stages.datasets.layouts.text import fold
from stages.notes import Kind, Notes

Tails = dict[tuple[str, ...], list[Path]]

RENAMED = Kind("image named differently from its file", "repaired", "images")


class ImageNames:
    """The image files below a folder, found by the names that annotations use for them.

    Repaired: backslashes, percent-encoding, web addresses, absolute paths of other machines, missing or additional leading folders,
    upper and lower case, composed and decomposed accents; a different suffix or none. A name that could mean several files finds none.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = [path.relative_to(root) for path in list_images(root)]

    def find(self, name: str, notes: Notes, split: str) -> Path | None:
        """The file, relative to the root; None if there is none, or several that fit equally well."""
        if _is_below(name) and is_file(self.root / name):
            return Path(name)
        spelled = _spellings(name)
        found = next((path for one in spelled if (path := _by_parts(one, self._names)) is not None), None)
        found = found or next((path for one in spelled if (path := _by_parts(cut_suffix(one), self._stems)) is not None), None)
        if found is not None:
            notes.add(RENAMED, split, f"{name} is {found.as_posix()}", image=found.as_posix())
        return found

    @cached_property
    def _names(self) -> Tails:
        return _tails((file.as_posix(), file) for file in self.files)

    @cached_property
    def _stems(self) -> Tails:
        return _tails((cut_suffix(file.as_posix()), file) for file in self.files)


def cut_suffix(name: str) -> str:
    """The name without the suffix of an image or XML file; any other dot is part of the name."""
    suffix = next((one for one in (".xml", *SUFFIXES) if name.lower().endswith(one)), "")
    return name[: len(name) - len(suffix)]


def can_be_a_name(text: str) -> bool:
    """Whether a system can have a file of this name, however long."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # a surrogate that is not a byte of a name in a different encoding
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file system accepts has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _tails(files: Iterable[tuple[str, Path]]) -> Tails:
    """Every file by every ending of its path."""
    found: Tails = {}
    for name, file in files:
        parts = tuple(map(fold, name.split("/")))
        for start in range(len(parts)):
            found.setdefault(parts[start:], []).append(file)
    return found


def _by_parts(name: str, tails: Tails) -> Path | None:
    """The file whose path shares the most trailing parts with the name, if it is the only one."""
    parts = tuple(fold(part) for part in PurePosixPath(name).parts if part not in ("/", ".", ".."))
    for length in range(len(parts), 0, -1):
        fitting = tails.get(parts[-length:], [])
        if fitting:
            return fitting[0] if len(fitting) == 1 else None
    return None


def _is_below(name: str) -> bool:
    """Whether the name is a relative path that a system can have and that stays below its folder."""
    path = PurePosixPath(name)
    possible = bool(name) and "\0" not in name and all(len(part.encode("utf-8", "surrogatepass")) < 256 for part in path.parts)
    return possible and not path.is_absolute() and ".." not in path.parts


def _spellings(name: str) -> list[str]:
    """The name with its separators as slashes, and without percent-encoding and the parts of a web address that are not its path."""
    slashed = name.replace("\\", "/")
    try:
        address = urlsplit(slashed).path if "://" in slashed else slashed
    except ValueError:  # such as http://[x
        address = slashed
    return list(dict.fromkeys((slashed, unquote(slashed), address, unquote(address))))
