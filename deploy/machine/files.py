"""Files that others may have made: opened only if they are regular, so that a FIFO or a device never blocks or fills the memory.

Those that others may be reading are replaced in one step.
"""

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from deploy.errors import DataError

_KINDS = (
    (stat.S_ISDIR, "Is a directory"),
    (stat.S_ISFIFO, "a FIFO, not a regular file"),
    (stat.S_ISSOCK, "a socket, not a regular file"),
    (stat.S_ISBLK, "a block device, not a regular file"),
    (stat.S_ISCHR, "a character device, not a regular file"),
)


class NotRegular(OSError):
    """A path that does not lead to a regular file, or leads to one that is too large; `strerror` names what is there."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(errno.EINVAL, found, str(path))


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, following links, as those of model hubs and Kubernetes volumes; never waits for a writer.

    Raises:
        NotRegular: it is a folder, a FIFO, a socket or a device.
        OSError: it does not exist or may not be read.
    """
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        _refuse(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: Path) -> None:
    """Check a file before a library opens it by its name; raises as `open_regular`."""
    _refuse(path, os.stat(path).st_mode)  # noqa: PTH116 - a path may be given as text


def _refuse(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotRegular(path, next((name for test, name in _KINDS if test(mode)), "not a regular file"))


def read_bytes(path: Path, *, most: int | None = None) -> bytes:
    """A file's content.

    Args:
        most: largest size, in bytes.

    Raises:
        NotRegular: as `open_regular`, or the file is larger than `most`.
        OSError: it does not exist or may not be read.
    """
    with open_regular(path) as file:
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise NotRegular(path, f"more than {most:,} bytes")
    return content


def read_data(path: Path) -> bytes:
    """The content of a user's file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return read_bytes(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_text(path: Path, *, most: int | None = None) -> str:
    """A file's content as UTF-8; raises as `read_bytes`, or UnicodeDecodeError."""
    return read_bytes(path, most=most).decode("utf-8")


def sha256(path: Path) -> str:
    """A file's hash; raises as `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path`, whose file takes its place at the end: no reader sees and no crash leaves half a file."""
    # Not the process's number: in containers on several machines, all have the same.
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def copy(source: Path, out: Path) -> Path:
    """Copy a file's content to `out`, a file that is replaced; raises as `open_regular`."""
    with open_regular(source) as file, out.open("wb") as copied:
        shutil.copyfileobj(file, copied, 1 << 20)
    return out
