"""Which label file belongs to which image, and which belong to none."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from deploy.machine.files import open_regular, read_bytes
from stages.datasets.layouts import SPLITS, SUFFIXES, UNREAD_SUFFIXES, list_files
from stages.datasets.layouts.text import fold
from stages.datasets.layouts.yolo import kinds
from stages.notes import Notes

_IMAGES = ("images", "image", "imgs", "img", "jpegimages")
_HASH = re.compile(r"^[0-9a-f]{8}[-_]+")
"""What Label Studio puts before the names of uploaded files."""


_BLANKS = bytes.maketrans(b",;", b"  ")


class Labels:
    """The label files of a folder's images.

    Args:
        root: the data folder; no label of an image in it is looked for outside.
        images: the image files of each split.
        others: text files that hold no objects: lists of images and of class names.
        notes: what was repaired, assumed or left out is added to them.
    """

    def __init__(self, root: Path, images: Mapping[str, Sequence[Path]], others: Iterable[Path], notes: Notes) -> None:
        self.root = root
        self.notes = notes
        excluded = set(others)
        self.files = [path for path in list_files(root, (".txt",)) if path not in excluded]
        self.unread = list_files(root, UNREAD_SUFFIXES)
        self.of: dict[Path, Path] = {}
        self._known = set(self.files)
        self._images = images
        self._users: dict[Path, Path] = {}
        self._folders: dict[str, str] = {}
        """The split that looks for its labels in a folder, by the folder's folded path."""

        for split, paths in images.items():
            for path in paths:
                self._pair(split, path)
        self._pair_by_likeness()
        self._count_unlabeled()
        self._count_lost()

    def _pair(self, split: str, image: Path) -> None:
        places = list(candidates(self.root, image))
        for place in places[:2]:
            self._folders.setdefault(fold(str(place.parent)), split)
        present = [path for path in dict.fromkeys(places) if path in self._known or (not path.is_relative_to(self.root) and path.is_file())]
        if not present:
            return
        other = next((path for path in present[1:] if not _same(path, present[0])), None)
        if other is not None:
            self.notes.add(kinds.SECOND, split, f"{self._shown(present[0])} is used, not {self._shown(other)}", image=self._shown(image))
        self._claim(split, image, present[0])

    def _claim(self, split: str, image: Path, label: Path) -> None:
        if self._users.get(label, image) != image:
            text = f"{self._shown(label)} is used for {self._shown(self._users[label])} and {self._shown(image)}"
            self.notes.add(kinds.SHARED, split, text, image=self._shown(image))
        self._users.setdefault(label, image)
        self._folders.setdefault(fold(str(label.parent)), split)
        self.of[image] = label

    def _pair_by_likeness(self) -> None:
        """Pair what is left if exactly one image and one label file fit: another case, a suffix or a prefix more."""
        left: dict[tuple[str, str], set[Path]] = {}
        for label in self.files:
            if label not in self._users:
                for key in _keys(label.stem):
                    left.setdefault((fold(str(label.parent)), key), set()).add(label)
        if not left:
            return
        wanted: dict[Path, list[tuple[str, Path]]] = {}
        for split, image in self._unlabeled():
            folders = {fold(str(place.parent)) for place in candidates(self.root, image)}
            names = {*_keys(image.stem), *_keys(image.name)}
            fitting = {label for folder in folders for key in names for label in left.get((folder, key), ())}
            if len(fitting) == 1:
                wanted.setdefault(fitting.pop(), []).append((split, image))
        for label, users in wanted.items():
            if len(users) == 1:
                [(split, image)] = users
                self.notes.add(kinds.SPELLED, split, f"{self._shown(label)} is {self._shown(image)}'s", image=self._shown(image))
                self._claim(split, image, label)

    def _unlabeled(self) -> list[tuple[str, Path]]:
        return [(split, path) for split, paths in self._images.items() for path in paths if path not in self.of]

    def _count_unlabeled(self) -> None:
        for split, image in self._unlabeled():
            if image.is_file():  # cleaning counts the others
                self.notes.add(kinds.UNLABELED, split, f"{self._shown(image)}: no objects assumed", image=self._shown(image))

    def _count_lost(self) -> None:
        """Note images that are not read, and label files whose image is missing."""
        used = {path for paths in self._images.values() for path in paths}
        folders: dict[str, str] = {}
        for split, paths in self._images.items():
            for path in paths:
                folders.setdefault(fold(str(path.parent)), split)
        stems = set()
        for path in self.unread:
            owner = self._split(path, folders)
            if owner is not None and path not in used:
                stems.add(fold(path.stem))
                self.notes.add(kinds.UNREAD, owner, f"{self._shown(path)}: convert it to JPEG or PNG")
        for path in self.files:
            owner = self._split(path, self._folders)
            if owner is not None and path not in self._users and fold(path.stem) not in stems and _has_objects(path):
                self.notes.add(kinds.ORPHAN, owner, self._shown(path))

    def _split(self, path: Path, folders: Mapping[str, str]) -> str | None:
        """The split that a file belongs to: by its folder, otherwise by a folder's name."""
        found = folders.get(fold(str(path.parent)))
        if found is not None:
            return found
        words = {part.lower() for part in path.relative_to(self.root).parts[:-1]}
        return next((split for split, names in SPLITS.items() if split in self._images and words & set(names)), None)

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.as_posix()


def candidates(root: Path, image: Path) -> Iterator[Path]:
    """The places of an image's label file, the usual one first; below the root if the image is."""
    base = root if image.is_relative_to(root) else Path(image.anchor)
    parts = image.relative_to(base).parts
    name = f"{image.stem}.txt"
    inner = [index for index, part in enumerate(parts[:-1]) if part.lower() in _IMAGES]
    for index in reversed(inner):
        for word in ("labels", "Labels", "label"):
            yield base.joinpath(*parts[:index], word, *parts[index + 1 : -1], name)
    yield image.with_name(name)
    if base != root:
        return
    plain = [part for index, part in enumerate(parts[:-1]) if index not in inner]
    yield image.parent / "labels" / name
    for index in range(len(plain), -1, -1):
        yield base.joinpath(*plain[:index], "labels", *plain[index:], name)
    yield base / "labels" / name


def _keys(stem: str) -> set[str]:
    """What a label file's stem may stand for."""
    stems = {stem, unquote(stem)}
    stems |= {Path(one).stem for one in stems if Path(one).suffix.lower() in SUFFIXES}
    stems |= {_HASH.sub("", one) for one in stems}
    return {fold(one).replace(" ", "_") for one in stems if one}


def _same(one: Path, other: Path) -> bool:
    """Whether two label files have the same content; one that cannot be read differs, and whoever reads it says so."""
    try:
        return read_bytes(one) == read_bytes(other)
    except OSError:
        return False


def _has_objects(path: Path) -> bool:
    """Whether one of the file's first lines is a word and at least four numbers."""
    try:
        with open_regular(path) as file:
            lines = file.read(2000).replace(b"\0", b"").translate(_BLANKS).splitlines()
    except OSError:
        return False
    rows = [line.split() for line in lines if not line.startswith(b"#")]
    return any(len(words) > 4 and all(map(_is_number, words[1:])) for words in rows)


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
