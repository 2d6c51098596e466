"""Where trainings of one teacher's students keep what it makes of their images; without torch, so that nobody loads it in vain."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SharedFolder:
    """The folder `name` of `root`; all folders in `root` together have at most `most_bytes`."""

    root: Path
    name: str
    most_bytes: int

    def opened(self) -> tuple[Path, int]:
        """The folder and the bytes that may be added to it; the folders longest unused are deleted until the others leave half free."""
        folder = self.root / self.name
        folder.mkdir(parents=True, exist_ok=True)
        folder.touch()
        sizes = {one: _size(one) for one in self.root.iterdir()}
        kept = sizes.pop(folder, 0)
        for one in sorted(sizes, key=_last_used):
            if sum(sizes.values()) <= self.most_bytes // 2:
                break
            shutil.rmtree(one, ignore_errors=True)  # another process may be deleting it, or still write to it
            del sizes[one]
        return folder, self.most_bytes - kept - sum(sizes.values())


_CURRENT: ContextVar[SharedFolder | None] = ContextVar("shared folder", default=None)


@contextmanager
def shared_in(root: Path, name: str, most_bytes: int) -> Iterator[None]:
    """Inside, a teacher that runs on a CPU keeps its outputs in the folder `name` of `root`, and finds those of earlier trainings there.

    Args:
        name: the same for trainings with the same teacher only. Those with the same images share best.
        most_bytes: of all folders in `root`; 0: nothing is kept.
    """
    token = _CURRENT.set(SharedFolder(root, name, most_bytes) if most_bytes else None)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current() -> SharedFolder | None:
    """Where outputs are kept; None outside of `shared_in`."""
    return _CURRENT.get()


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:  # deleted by another process
        return 0


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
