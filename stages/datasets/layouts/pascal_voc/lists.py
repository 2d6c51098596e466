"""Lists of names: ImageSets/Main/train.txt and others, one image per line."""

import re
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import DataError
from stages.datasets.layouts import SPLITS, SUFFIXES
from stages.datasets.layouts.image_names import cut_suffix
from stages.datasets.layouts.pascal_voc.stems import Stems
from stages.datasets.layouts.text import read_text
from stages.notes import Notes

WHOLE = ("trainval", "default", "all")
"""Lists of all images. Without a list for train, that is what no other list has of them."""

_COLUMN = re.compile(r"""^(.*\S)\s+(?:-1|0|1)$""")
_TWO_PATHS = re.compile(rf"^(.*?(?:{'|'.join(map(re.escape, SUFFIXES))}))\s+\S", re.IGNORECASE)
"""An image and, in PaddleX's lists, its XML file; in lists for Keras, its boxes."""

_QUOTED = re.compile(r"""^(["'])(.+)\1(?:\s+(?:-1|0|1))?$""")


def find(root: Path) -> dict[str, tuple[Path, ...]]:
    """The lists of each split: plain ones, otherwise VOTT's lists per class, which all name every image of the split.

    Raises:
        DataError: ImageSets/Main has lists, but it cannot be told of which split.
    """
    for folder in (_below(root, "ImageSets", "Main"), _below(root, "ImageSets")):
        files = _text_files(folder) if folder else {}
        found = _plain_lists(files) or _lists_per_class(files)
        if files and not found and len(files) > 1:
            names = ", ".join(path.name for path in list(files.values())[:5])
            raise DataError(f"{folder}: cannot tell the splits from the lists {names}; name them train.txt and val.txt")
        if files:
            return found or {"train": tuple(files.values())}
    files = _text_files(root)
    return _first_of(files, {split: (*words, f"{split}_list") for split, words in SPLITS.items()})


def _text_files(folder: Path) -> dict[str, Path]:
    """The text files of a folder by their names in lower case, without suffix."""
    return {path.stem.casefold(): path for path in sorted(folder.glob("*")) if path.suffix.lower() == ".txt"}


def _first_of(files: Mapping[str, Path], words: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[Path, ...]]:
    """The first file that has one of the names of each split."""
    found = {split: next((files[word] for word in known if word in files), None) for split, known in words.items()}
    return {split: (path,) for split, path in found.items() if path is not None}


def _plain_lists(files: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    found = _first_of(files, SPLITS)
    whole = next((files[word] for word in WHOLE if word in files), None)
    return found if whole is None or "train" in found else {"train": (whole,)} | found


def _lists_per_class(files: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    found = {split: tuple(path for stem, path in files.items() if stem.endswith(f"_{split}")) for split in SPLITS}
    return {split: paths for split, paths in found.items() if paths}


def read(path: Path, annotations: Stems, notes: Notes, split: str) -> tuple[list[Path], list[str]]:
    """The annotation files that a list names, and the names that have none.

    Raises:
        DataError: a line could mean several files.
    """
    files: list[Path] = []
    absent: list[str] = []
    for row, line in enumerate(read_text(path, notes, split).splitlines(), start=1):
        if not line.strip():
            continue
        found = {file for name in _names(line.strip()) for file in _fitting(name, annotations, path.stem)}
        if len(found) > 1:
            one, other = sorted(found)[:2]
            raise DataError(f"{path}:{row}: '{line.strip()}' could be {one} or {other}; list names with their folders, one per line")
        files += found
        absent += [] if found else [_names(line.strip())[-1]]
    return files, absent


def _names(line: str) -> list[str]:
    """What a line may name, without suffix: all of it, or all but a column of 1 or -1 or a second path."""
    quoted = _QUOTED.match(line)
    if quoted:
        return [_plain(quoted[2])]
    pair = _TWO_PATHS.match(line)
    column = _COLUMN.match(line)
    return [_plain(match) for match in (line, pair and pair[1], column and column[1]) if match]


def _plain(name: str) -> str:
    return cut_suffix(name.strip().replace("\\", "/"))


def _fitting(name: str, annotations: Stems, listed_in: str) -> list[Path]:
    """The files of that name; of several, the one below a folder that has the list's name, as CVAT writes them."""
    found = annotations.find(name)
    return annotations.find(f"{listed_in}/{name}") if len(found) > 1 and "/" not in name else found


def _below(root: Path, *names: str) -> Path | None:
    """A folder below the root, whatever the case of its names."""
    for name in names:
        folder = next((path for path in sorted(root.iterdir()) if path.name.casefold() == name.casefold() and path.is_dir()), None)
        if folder is None:
            return None
        root = folder
    return root
