"""The image files below a folder."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.errors import DataError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc", ".avif"),
)


def list_images(root: Path) -> list[Path]:
    """All image files below a folder, sorted by their path.

    Raises:
        DataError: a folder cannot be read.
    """
    return list_files(root, SUFFIXES)


def list_files(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """All files below a folder that end in one of the suffixes, in upper or lower case, sorted by their path.

    Raises:
        DataError: a folder cannot be read.
    """
    return sorted(path for path in _files(root) if path.suffix.lower() in suffixes)


def has_file(root: Path, suffixes: Sequence[str]) -> bool:
    """Whether a file that ends in one of the suffixes is anywhere below a folder.

    Raises:
        DataError: a folder cannot be read.
    """
    return any(path.suffix.lower() in suffixes for path in _files(root))


def is_hidden(name: str) -> bool:
    """Whether tools hide files of this name, or leave them behind: .ipynb_checkpoints, ._photo.jpg, __MACOSX."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _files(root: Path) -> Iterator[Path]:
    """All files below a folder, except hidden ones and those in hidden folders, each folder once whatever links lead to it."""
    seen: set[Path] = set()
    for folder_name, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = Path(folder_name).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in names:
            if not is_hidden(name):
                yield Path(folder_name, name)


def _refuse(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):  # nothing there, so no files
        return
    raise DataError(f"{error.filename}: this folder cannot be read ({error.strerror})") from error
