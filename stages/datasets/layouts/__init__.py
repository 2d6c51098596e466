"""Folder layouts of data sets, each read as COCO dictionaries; the files of stages/datasets choose among them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from deploy.errors import DataError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc", ".avif"),
)
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".psd", ".tga", ".pcx", ".exr", ".hdr", ".dcm", ".pfm"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
"""Suffixes of images that are read, and of those that are not and so are counted."""

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Our names of the splits, and the names that folders use."""


def folder(root: str | None, layout: str) -> Path:
    """The data set's folder.

    Raises:
        DataError: none was given, or it does not exist.
    """
    if root is None:
        raise DataError(f"dataset {layout}: data.root is missing; set it to the folder that holds the data")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; set data.root to the folder that holds the data")
    return path


def list_images(root: Path) -> list[Path]:
    """All image files below a folder, sorted by their path."""
    return list_files(root, SUFFIXES)


def list_files(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """All files below a folder with one of the (lowercase) suffixes in any case, sorted by their path."""
    return sorted(path for path in _files(root) if path.suffix.lower() in suffixes)


def has_file(root: Path, suffixes: Sequence[str]) -> bool:
    """Whether a file with one of the (lowercase) suffixes is anywhere below a folder."""
    return any(path.suffix.lower() in suffixes for path in _files(root))


def digest(annotations: Iterable[Path], images: Iterable[Path]) -> dict[str, str]:
    """Digests that change when the data does: of the annotation files' content; of each image's name, size and time.

    Args:
        images: image files, or folders, which stand for all images below them.

    Raises:
        DataError: an annotation file cannot be read.
    """
    content, listing = hashlib.sha256(), hashlib.sha256()
    for path in annotations:
        try:
            content.update(f"{path.name}\n{path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    content.update(block)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for given in sorted(set(images)):
        for path in list_images(given) if given.is_dir() else [given]:
            name = path.relative_to(given).as_posix() if given.is_dir() else path.name
            facts = path.stat() if path.is_file() else None
            listing.update(f"{name}\n{facts and (facts.st_size, facts.st_mtime_ns)}\n".encode())
    return {"annotations": content.hexdigest()[:16], "images": listing.hexdigest()[:16]}


def nearby(root: Path, fits: Callable[[Path], bool]) -> Path:
    """The folder that `fits`: the root itself, otherwise the only fitting folder in it, otherwise the one that it is in; else the root."""
    if fits(root):
        return root
    below = [path for path in sorted(root.iterdir()) if path.is_dir() and not _is_hidden(path.name) and fits(path)]
    if len(below) == 1:
        return below[0]
    above = root.resolve().parent
    return above if not below and fits(above) else root


def _files(root: Path) -> Iterator[Path]:
    """All files below a folder, except hidden ones and those in hidden folders, each folder once whatever links lead to it."""
    seen: set[Path] = set()
    for folder_name, folders, names in os.walk(root, followlinks=True):
        real = Path(folder_name).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in names:
            if not _is_hidden(name):
                yield Path(folder_name, name)


def _is_hidden(name: str) -> bool:
    """Whether tools hide files of this name, or leave them behind: .ipynb_checkpoints, ._photo.jpg, __MACOSX."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")
