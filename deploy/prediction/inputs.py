"""What `predict` is given, as images: files, folders, patterns, lists of paths, and what arrives on standard input."""

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

from deploy.errors import ConfigError, DataError
from deploy.machine import files
from deploy.prediction import containers, video
from deploy.prediction.image_folders import SUFFIXES, list_files
from deploy.progress import note

Picture: TypeAlias = Path | bytes
"""An image file or a video, or the content of an image file."""

STANDARD_INPUT = "-"
_LIST = ".txt"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_IMAGE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP|BM.{4}\0{4}|GIF8[79]a|II[*+]\0|MM\0[*+]|P[1-6]\s+(#|\d+\s)|\0\0\0\x0cjP|\xff\x4f\xff\x51"
    rb"|\0\0..ftyp(avi[fs]|mif1|msf1|hei[cmsx]|hev[cx])",
    re.DOTALL,
)
"""How the formats that are read begin; and HEIC, of which reading it says that it cannot be read."""


def expand(given: Sequence[str], read_input: Callable[[], bytes], *, leave_out: Path | None = None) -> list[Picture]:
    """The images that the words of a command line mean, in the order of the words, each file once; a folder's are sorted.

    A file that does not exist is kept: whoever reads it says so.

    Args:
        read_input: reads all of standard input; called if one of the words is "-".
        leave_out: a folder of results; if it is below a given folder, its files are not taken.

    Raises:
        ConfigError: a web address, or "-" twice.
        DataError: a folder, pattern or list without images, or one that cannot be read.
    """
    if list(given).count(STANDARD_INPUT) > 1:
        raise ConfigError("- is standard input, which can be read only once; pass it once")
    found: dict[str | bytes, Picture] = {}
    for word in given:
        for one in _input(read_input(), leave_out) if word == STANDARD_INPUT else _named(word, leave_out):
            found.setdefault(one if isinstance(one, bytes) else os.path.abspath(one), one)  # noqa: PTH100 - resolve() follows links
    return list(found.values())


def _named(word: str, leave_out: Path | None) -> Iterator[Picture]:
    path = _path(word)
    if path.suffix.lower() == _LIST and path.exists() and not path.is_dir():
        yield from _listed(_text(files.read_data(path), str(path)), str(path), path.parent, leave_out)
    else:
        yield from _files(word, path, leave_out)


def _files(word: str, path: Path, leave_out: Path | None) -> Iterator[Path]:
    """The files that one path or pattern means."""
    if path.is_dir():
        yield from _folder(path, leave_out)
    elif not glob.has_magic(word) or path.exists():
        yield path
    else:
        yield from _matching(str(path), leave_out)


def _folder(path: Path, leave_out: Path | None) -> list[Path]:
    below = leave_out.resolve() if leave_out is not None and leave_out.resolve() != path.resolve() else None
    both = list_files(path, (*SUFFIXES, *video.SUFFIXES))
    both = [one for one in both if below is None or not one.resolve().is_relative_to(below)]
    found = [one for one in both if not video.is_named_video(one)]
    if left_out := len(both) - len(found):
        text = f"{path}: of a folder, only images are taken; name its videos to take them, too, such as {both[0].parent}/*.mp4"
        if not found:
            raise DataError(f"{text} ({left_out} videos, no image)")
        note(f"edgedistill: {text} ({left_out} left out)")
    if not found:
        raise DataError(f"{path}: no image in this folder; files that are read end in {', '.join(SUFFIXES[:6])} and the like")
    return found


def _matching(pattern: str, leave_out: Path | None) -> list[Path]:
    matches = [Path(one) for one in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = [one for one in matches if one.is_file()]
    images = [one for one in files if one.suffix.lower() in (*SUFFIXES, *video.SUFFIXES)] or files
    images = images or [image for one in matches if one.is_dir() for image in _folder(one, leave_out)]
    if not images:
        raise DataError(f"{pattern}: no file matches this pattern")
    return images


def _listed(text: str, name: str, folder: Path, leave_out: Path | None) -> Iterator[Path]:
    """The files of a list: a path, folder or pattern per line, relative to the list's folder or to the working directory."""
    words = re.split(r"\0" if "\0" in text else r"\r\n|\r|\n", text)
    lines = [(number, word.strip()) for number, word in enumerate(words, start=1) if word.strip() and not word.lstrip().startswith("#")]
    if not lines:
        raise DataError(f"{name}: lists no image; write one path per line")
    for number, word in lines:
        where = f"{name}:{number}"
        try:
            path = _place(word, folder)
            yield from _files(str(path), path, leave_out)
        except (ConfigError, DataError) as error:
            raise type(error)(f"{where}: {error}") from error


def _place(word: str, folder: Path) -> Path:
    """Where a line's path leads.

    Raises:
        DataError: to a different file from the list's folder than from the working directory.
    """
    spellings = dict.fromkeys((word, word.replace("\\", "/")))
    tried = [base / _path(one).expanduser() for one in spellings for base in (folder, Path())]
    there = [path for path in tried if path.exists() or (glob.has_magic(str(path)) and glob.glob(str(path), recursive=True))]  # noqa: PTH207
    if len({path.resolve() for path in there}) > 1:
        raise DataError(f"means both {there[0]} and {there[1]}; write the whole path")
    return there[0] if there else tried[0]


def _input(content: bytes, leave_out: Path | None) -> Iterator[Picture]:
    """The one image that standard input holds, or the images that it lists."""
    if _IMAGE.match(content):
        yield content
    elif containers.is_video(content):
        raise DataError("standard input is a video; save it as a file and pass its path")
    elif not content.strip():
        raise DataError("standard input is empty; write paths to it, one per line, or the bytes of one image")
    else:
        yield from _listed(_text(content, "standard input"), "standard input", Path(), leave_out)


def _text(content: bytes, name: str) -> str:
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: neither an image nor a list of paths in UTF-8 ({error})") from error


def _path(word: str) -> Path:
    """The path that a word is.

    Raises:
        ConfigError: it is a web address.
    """
    if word.lower().startswith("file://"):
        return Path(url2pathname(urlsplit(word).path))
    if _ADDRESS.match(word):
        raise ConfigError(f"{word}: nothing is downloaded; fetch the file first (curl -O {word}) and pass its path")
    return Path(word)
