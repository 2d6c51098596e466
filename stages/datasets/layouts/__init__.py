"""Folder layouts of data sets, each read as COCO dictionaries; the files of stages/datasets choose among them."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from deploy.errors import DataError
from deploy.machine import known_files
from deploy.machine.files import open_regular
from deploy.prediction.image_folders import SUFFIXES, has_file, is_hidden, list_files, list_images

__all__ = [
    "SPLITS",
    "SUFFIXES",
    "UNREAD_SUFFIXES",
    "digest",
    "folder",
    "has_file",
    "list_files",
    "list_images",
    "nearby",
    "splits_digest",
]

UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".jxl", ".psd", ".tga", ".pcx", ".exr", ".hdr", ".dcm", ".pfm"),
    *(".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
"""Suffixes of images that are not read, and so are counted."""

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


def digest(annotations: Iterable[Path], images: Iterable[Path]) -> dict[str, str]:
    """Digests that change when the data does: of the annotation files' content; of each image's name, size and time.

    The content is read again only if a file's size or time has changed since it was read, see `known_files`.

    Args:
        images: image files, or folders, which stand for all images below them.

    Raises:
        DataError: an annotation file cannot be read.
    """
    files, listing = list(annotations), hashlib.sha256()
    for given in sorted(set(images)):
        for path in list_images(given) if given.is_dir() else [given]:
            name = path.relative_to(given).as_posix() if given.is_dir() else path.name
            facts = path.stat() if path.is_file() else None
            listing.update(_bytes(f"{name}\n{facts and (facts.st_size, facts.st_mtime_ns)}\n"))
        listing.update(b"\n")
    content = known_files.recall("sha256", files, partial(_content, files))
    return {"annotations": content[:16], "images": listing.hexdigest()[:16]}


def splits_digest(rows: Iterable[Sequence[str]]) -> dict[str, str]:
    """A digest that changes if a file changes its split, its folder or the file that belongs to it.

    Args:
        rows: the split, and the paths of a file in it and of those that belong to it, where they are in the data.
    """
    text = hashlib.sha256()
    for row in rows:
        text.update(_bytes(f"{tuple(row)}\n"))
    return {"splits": text.hexdigest()[:16]}


def _bytes(text: str) -> bytes:
    """Names of files may have bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _content(files: Iterable[Path]) -> str:
    """The sha256 of all files' names, sizes and content."""
    content = hashlib.sha256()
    for path in files:
        try:
            content.update(_bytes(f"{path.name}\n{path.stat().st_size}\n"))
            with open_regular(path) as file:
                while block := file.read(1 << 20):
                    content.update(block)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return content.hexdigest()


def nearby(root: Path, fits: Callable[[Path], bool]) -> Path:
    """The folder that `fits`: the root itself, otherwise the only fitting folder in it, otherwise the one that it is in; else the root."""
    if fits(root):
        return root
    below = [path for path in sorted(root.iterdir()) if path.is_dir() and not is_hidden(path.name) and fits(path)]
    if len(below) == 1:
        return below[0]
    above = root.resolve().parent
    return above if not below and fits(above) else root
