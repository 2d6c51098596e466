"""Where the images of each split are: folders, lists of folders, files that list images, or folders with the usual names."""

import os
from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path, PureWindowsPath

from deploy.errors import DataError
from deploy.prediction.image_folders import is_hidden
from stages.datasets.layouts import SPLITS, SUFFIXES, list_files, list_images
from stages.datasets.layouts.image_names import RENAMED, ImageNames
from stages.datasets.layouts.text import read_text
from stages.datasets.layouts.yolo import kinds
from stages.datasets.layouts.yolo.head import DataFile
from stages.notes import Notes

GENERAL = ("images", "image", "img", "imgs", "data", "labels", "jpegimages", "datasets")
"""Folder names that do not tell splits apart."""

_WORDS = {word: split for split, words in SPLITS.items() for word in words}
_FOLDERS = ("images/{0}", "{0}/images", "Images/{0}", "{0}/Images", "images/{0}2017", "obj_{0}_data", "obj_{1}_data")


class Images:
    """Finds the images of a folder's splits.

    Args:
        root: the data folder.
        data: its data file.
        notes: what was repaired or assumed is added to them.
    """

    def __init__(self, root: Path, data: DataFile, notes: Notes) -> None:
        self.root = root
        self.data = data
        self.notes = notes
        self.names = ImageNames(root)
        self.lists: list[Path] = []
        self.absent: set[str] = set()

    def find(self) -> dict[str, tuple[Path, ...]]:
        """The image files of each split, each once, in the order found.

        Raises:
            DataError: a folder or a list does not exist, or none of a list's images does.
        """
        found: dict[str, tuple[Path, ...]] = {}
        if self.data.base and not self._bases()[-1 if _is_absolute(self.data.base) else 0].is_dir():
            first = next(iter(self.data.entries), "train")
            self.notes.add(kinds.MOVED, first, f"path: {self.data.base} does not exist; data.root is used")
        for split in SPLITS:
            entries = self.data.entries.get(split, ())
            paths = [path for one in entries for path in self._entry(split, one)] if entries else self._unnamed(split)
            if paths or (entries and split not in self.absent):
                found[split] = self._once(split, paths)
        if not found:
            paths = list_images(self.root)
            if paths:
                found["train"] = tuple(paths)
        return found

    def _once(self, split: str, paths: Iterable[Path]) -> tuple[Path, ...]:
        seen: dict[str, Path] = {}
        for path in paths:
            key = os.path.normpath(path)
            if key in seen:
                self.notes.add(kinds.LISTED_TWICE, split, f"{self.shown(path)}: used once")
            else:
                seen[key] = Path(key)
        return tuple(seen.values())

    def shown(self, path: Path) -> str:
        """A path for messages: below the root if it is there."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()

    def _entry(self, split: str, text: str) -> list[Path]:
        """The images of a folder, of a text file that lists them, or of a pattern."""
        _check_length(str(self.data.path), text)
        if has_magic(text):
            for base in self._bases():
                names = map(Path, sorted(glob("/".join(_parts(text)), root_dir=base, recursive=True)))  # noqa: PTH207 - Path.glob takes hidden files
                paths = [base / name for name in names if name.suffix.lower() in SUFFIXES and not any(map(is_hidden, name.parts))]
                if paths:
                    return paths
        path = self._place(split, text)
        if path is None:
            folder = conventional(self.root, split)
            if folder is None and split != "train" and _is_template(split, text):
                self.absent.add(split)
                self.notes.add(kinds.ABSENT, "train", f"{self._where()} names {text} for {split}, which does not exist")
                return []
            if folder is None:
                raise DataError(f"{self.root / _relative(text)}: no such folder or list of images; {self._where()} names it for {split}")
            self.notes.add(kinds.BY_FOLDER, split, f"{text} does not exist; {self.shown(folder)} is used")
            path = folder
        if path.is_dir():
            return list_images(path)
        return self._listed(split, path)

    def _where(self) -> str:
        return self.data.path.name if self.data.path is not None else "the data file"

    def _bases(self) -> list[Path]:
        """The folder that `path` names, and the root; the root first if `path` is another machine's or another copy's."""
        if not self.data.base:
            return [self.root]
        own = self.root / _relative(self.data.base)
        return [self.root, own] if _is_absolute(self.data.base) else [own, self.root]

    def _place(self, split: str, text: str) -> Path | None:
        """The folder or file that an entry means."""
        plain = _relative(text)
        if self._is_own(plain):
            return Path(plain)
        if not _is_absolute(plain):
            tried = [base / one for base in self._bases() for one in (_without_ups(plain), plain) if one]
            present = [path for path in tried if path.exists()]
            if len({path.resolve() for path in present}) > 1:
                self.notes.add(kinds.SECOND_PLACE, split, f"{text} is {self.shown(present[0])}, not {self.shown(present[1])}")
            if present:
                return present[0]
        moved = self._moved(plain)
        if moved is None and _is_absolute(plain) and Path(plain).exists():
            return Path(plain)
        if moved is not None:
            self.notes.add(kinds.MOVED, split, f"{text} is {self.shown(moved)}")
        return moved

    def _is_own(self, text: str) -> bool:
        """Whether a path is absolute and below the root."""
        return text.startswith("/") and Path(text).exists() and Path(text).resolve().is_relative_to(self.root.resolve())

    def _moved(self, text: str) -> Path | None:
        """The longest ending of the path that exists below the root and still tells splits apart."""
        parts = _parts(text)
        for start in range(len(parts)):
            tail = parts[start:]
            specific = any(part.lower() not in GENERAL for part in tail) or not any(part.lower() in _WORDS for part in parts)
            if specific and (self.root.joinpath(*tail)).exists():
                return self.root.joinpath(*tail)
        return None

    def _unnamed(self, split: str) -> list[Path]:
        """The images of a split that no data file names: a folder or a list with the usual name."""
        folder = conventional(self.root, split)
        if folder is not None:
            if self.data.entries:
                self.notes.add(kinds.BY_FOLDER, split, f"{self._where()} does not name {split}; {self.shown(folder)} is used")
            return list_images(folder)
        for word in SPLITS[split]:
            path = self.root / f"{word}.txt"
            if path.is_file():
                return self._listed(split, path)
        return []

    def _listed(self, split: str, path: Path) -> list[Path]:
        """The images that a text file lists; one that does not exist stays in the list, for cleaning to report.

        Raises:
            DataError: none of them exists.
        """
        if path.suffix.lower() in SUFFIXES:
            return [path]
        self.lists.append(path)
        lines = [_bare(line) for line in read_text(path, self.notes, split).splitlines()]
        lines = [line for line in lines if line]
        for line in lines:
            _check_length(str(path), line)
        found = [self._image(split, path.parent, line) for line in lines]
        if lines and not any(one.is_file() for one in found):
            raise DataError(f"{path}: none of its {len(lines)} images exists below {self.root}, the first is {lines[0]}")
        return found

    def _image(self, split: str, folder: Path, line: str) -> Path:
        plain = line.replace("\\", "/")
        relative = not _is_absolute(plain)
        tried = [base / plain for base in dict.fromkeys((folder, *self._bases()))] if relative else []
        exact = next((one for one in tried if one.is_file()), None)
        if exact is not None or self._is_own(plain):
            return exact or Path(plain)
        own = Notes()
        found = self.names.find(line, own, split)
        if found is None or _other_split(plain, found):
            return Path(plain) if Path(plain).is_file() else self.root / plain.lstrip("/")
        for note in own:
            self.notes.add(RENAMED, split, note.examples[0], image=found.as_posix())
        return self.root / found


def conventional(root: Path, split: str) -> Path | None:
    """The folder with a usual name that holds a split's images."""
    for word in SPLITS[split]:
        for pattern in _FOLDERS:
            folder = root / pattern.format(word, word.capitalize())
            if folder.is_dir() and list_images(folder):
                return folder
    for word in SPLITS[split]:
        folder = root / word
        labels = any(list_files(one, (".txt",)) for one in (folder, root / "labels" / word))
        if folder.is_dir() and labels and list_images(folder):
            return folder
    return None


def _is_template(split: str, text: str) -> bool:
    """Whether an entry is what Roboflow writes for every split, also for one that the export does not have."""
    return text.strip() in {f"../{word}/images" for word in SPLITS[split]}


def _other_split(given: str, found: Path) -> bool:
    """Whether a name belongs to one split and the file found for it to another."""
    meant, has = ({_WORDS[part.lower()] for part in parts if part.lower() in _WORDS} for parts in (_parts(given), found.parts))
    return bool(meant and has) and not meant & has


def _bare(line: str) -> str:
    """A line of a list without quotes and blanks; empty for a comment."""
    text = line.strip().strip("\"'").strip()
    return "" if text.startswith("#") else text


def _check_length(where: str, text: str) -> None:
    """Refuse what no file system could hold.

    Raises:
        DataError: a part of the path is too long.
    """
    if len(text.encode(errors="replace")) > 4000 or any(len(part.encode(errors="replace")) > 255 for part in _parts(text)):
        raise DataError(f"{where}: '{text[:60]}...' is not a path of images")


def _relative(text: str) -> str:
    return text.strip().replace("\\", "/")


def _is_absolute(text: str) -> bool:
    return text.startswith("/") or bool(PureWindowsPath(text).drive)


def _parts(text: str) -> list[str]:
    return [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _without_ups(text: str) -> str:
    return "/".join(_parts(text)) if text.startswith(("../", "./")) else text
