"""Which files of a folder are the COCO annotations of which split, and which folders have their images."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from deploy.machine import files, known_files
from stages.datasets.layouts import SPLITS
from stages.datasets.layouts.entries import document
from stages.datasets.layouts.image_names import ImageNames, can_be_a_name, is_file
from stages.notes import Kind, Note, Notes

OTHERS = Kind("annotation file that is not used", "left out", "files")
UNLABELED = Kind("split whose file has no annotations", "left out", "files")

_DEPTH = 3
_ODD = re.compile(r"keypoint|caption|panoptic|stuff|image_info|result|prediction|detection|unlabeled")
_GENERIC = ("images", "image", "img", "imgs", "data", "jpegimages")
_ANNOTATIONS = ("annotations", "annotation", "labels", "json")
_MOST_UNNAMED = 20
_SAMPLE = 50
_ADVICE = "name the files with data.train_images, data.train_annotations, data.val_images and data.val_annotations"


@dataclass(frozen=True)
class Pair:
    """A split: its folder of images and its annotation file."""

    images: Path
    annotations: Path
    notes: tuple[Note, ...] = ()


def discover(root: Path) -> dict[str, Pair]:
    """The splits of a folder, which may also be one level above or below the given one.

    A single annotation file that belongs to no split by its name is train, unless the folder itself is named as a split.

    Raises:
        DataError: no annotation file, or two that could be the same split.
    """
    base = _base(root)
    files = _json_files(base)
    pairs: dict[str, tuple[Path, Notes]] = {}
    for split in SPLITS:
        mine = [path for path in files if _split_of(path.relative_to(base)) == split]
        if mine and pairs and all(map(_is_unlabeled, mine)):
            first, (_, notes) = next(iter(pairs.items()))
            notes.add(UNLABELED, first, f"{split}: {mine[0].name}")
        elif mine:
            notes = Notes()
            chosen = _choose(mine, split, notes)
            pairs[split] = (chosen, notes)
    if not pairs:
        split, chosen, notes = _unsplit(root, base, [path for path in files if _split_of(path.relative_to(base)) is None])
        pairs[split] = (chosen, notes)
    return {split: Pair(_images(base, split, chosen), chosen, tuple(notes)) for split, (chosen, notes) in pairs.items()}


def _base(root: Path) -> Path:
    """The given folder, or the one it is in if it is only a part of a data set: the images, or one split."""
    above = root.resolve().parent
    is_part = root.resolve().name.lower() in _GENERIC or _named_as(root) is not None
    return above if is_part and not _json_files(root) and _has_annotations(above) else root


def _has_annotations(folder: Path) -> bool:
    """Whether a COCO file lies in the folder or where annotations lie below it; its other folders may be anything."""
    known = [path for path in _json_files(folder) if path.parent == folder or _is_place(folder / path.relative_to(folder).parts[0])]
    return any(_is_coco(path) for path in known[:_MOST_UNNAMED])


def _is_coco(path: Path) -> bool:
    return known_files.recall("is a COCO file", [path], partial(document.is_coco, path))


def _is_unlabeled(path: Path) -> bool:
    return b'"annotations"' not in files.read_data(path) and document.is_unlabeled(path)


def _is_place(folder: Path) -> bool:
    return folder.name.lower() in _ANNOTATIONS or _named_as(folder) is not None


def _named_as(root: Path) -> str | None:
    """The split whose very word is the folder's name, apart from digits."""
    name = re.sub(r"[\d_-]", "", root.resolve().name.lower())
    return next((split for split, words in SPLITS.items() if name in words), None)


def _json_files(root: Path) -> list[Path]:
    return _below(root, lambda name: name.lower().endswith(".json"))


def _below(root: Path, fits: Callable[[str], bool]) -> list[Path]:
    """Files with fitting names, at most three folders deep, the shallowest first."""
    found = (folder / name for folder, _, names in _walked(root) for name in names if fits(name) and not name.startswith("."))
    return sorted(found, key=lambda path: (len(path.parts), path))


def _walked(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder, at most three deep, with the names of the folders and files in it; hidden folders are left out."""
    for folder, folders, names in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"] if depth < _DEPTH else []
        yield Path(folder), folders, names


def _split_of(path: Path) -> str | None:
    """The split that a path's name, or the nearest of its folders, has a word of; None if there is none, or several."""
    for part in (path.stem, *reversed(path.parent.parts)):
        words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", part).lower())
        fitting = {split for split, known in SPLITS.items() if any(word in known for word in words)}
        if fitting:
            return fitting.pop() if len(fitting) == 1 else None
    return None


def _choose(paths: Sequence[Path], split: str, notes: Notes) -> Path:
    """The annotation file of a split among those named for it.

    Raises:
        DataError: two fit equally well.
    """
    usual = [path for path in paths if not _ODD.search(path.stem.lower())] or list(paths)
    best = [path for path in usual if path.stem.lower().startswith("instances")] or usual
    if len(best) > 1:
        best = [path for path in best[:_MOST_UNNAMED] if _is_coco(path)] or best
    first, *more = best
    if more and len({files.read_data(path) for path in best}) > 1:
        raise DataError(f"{first} and {more[0]}: both could be the {split} annotations; remove one, or {_ADVICE}")
    for path in paths:
        if path != first and _is_coco(path):
            notes.add(OTHERS, split, f"{path.name}; {first.name} is used")
    return first


def _unsplit(root: Path, base: Path, paths: Sequence[Path]) -> tuple[str, Path, Notes]:
    notes = Notes()
    split = _named_as(root) or "train"
    fitting = [path for path in paths[:_MOST_UNNAMED] if _is_coco(path)]
    if fitting:
        return split, _choose(fitting, split, notes), notes
    if len(paths) == 1:
        return split, paths[0], notes
    raise DataError(f"{base}: no file such as annotations/instances_train.json; {_ADVICE}")


def _images(base: Path, split: str, annotations: Path) -> Path:
    """The folder that has the most of the images named in the file, under their very names, otherwise under similar ones."""
    names = _names(annotations)
    for root in (base, base.resolve().parent) if base.resolve().name.lower() in _ANNOTATIONS else (base,):
        folders = _candidates(root, split, annotations)
        exact = {folder: sum(is_file(folder / name) for name in names) for folder in folders}
        best = max(folders, key=exact.__getitem__)
        if names and exact[best] == len(names):
            return best
        similar = {folder: _num_found(folder, names) for folder in folders}
        scores = {folder: (similar[folder], exact[folder]) for folder in folders}
        best = max(folders, key=scores.__getitem__)
        if similar[best]:
            return best
    return _candidates(base, split, annotations)[0]


def _names(annotations: Path) -> list[str]:
    """File names of some images, from all over the list."""
    return known_files.recall("names of some images", [annotations], partial(_read_names, annotations))


def _read_names(annotations: Path) -> list[str]:
    rows = document.image_rows(annotations)
    return _usable(rows[:: max(1, len(rows) // _SAMPLE)])


def file_names(annotations: Path) -> list[str]:
    """The file names in an annotation file.

    Raises:
        DataError: it cannot be read.
    """
    return _usable(document.image_rows(annotations))


def _usable(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row["file_name"] for row in rows if isinstance(row.get("file_name"), str) and can_be_a_name(row["file_name"])]


def _candidates(root: Path, split: str, annotations: Path) -> list[Path]:
    """Folders that may have a split's images: those named for it, the annotations' own, those named for images, the root."""
    found = (folder / name for folder, folders, _ in _walked(root) for name in folders)
    folders = sorted(found, key=lambda path: (len(path.parts), path))
    named = {path: _split_of(Path(path.relative_to(root), "x")) for path in folders}
    own = [path for path in folders if named[path] == split]
    generic = [path for path in folders if named[path] is None and path.name.lower() in _GENERIC]
    return list(dict.fromkeys((*own, annotations.parent, *generic, root)))


def _num_found(folder: Path, names: Sequence[str]) -> int:
    known = ImageNames(folder)
    return sum(known.find(name, Notes(), "") is not None for name in names)
