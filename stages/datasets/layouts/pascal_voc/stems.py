"""Finding a file by its path without the suffix."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from stages.datasets.layouts.text import fold


class Stems:
    """Files below a folder by their names without suffix; case counts only if names differ in nothing else."""

    def __init__(self, root: Path, files: Iterable[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = {}
        for file in files:
            self._by_stem.setdefault(fold(file.stem), []).append(file.relative_to(root))

    def find(self, name: str) -> list[Path]:
        """The files of this name, relative to the root; of several, those that share the most of the name's folders.

        A file in a folder is not meant by a name in a different folder.

        Args:
            name: a path with forward slashes, without suffix.
        """
        path = PurePosixPath(name)
        fitting = self._by_stem.get(fold(path.name), [])
        fitting = [file for file in fitting if file.stem == path.name] or fitting
        most = max((_shared(file, path) for file in fitting), default=0)
        near = [file for file in fitting if _shared(file, path) == most]
        return near if most or len(path.parts) == 1 else [file for file in near if len(file.parts) == 1]


def _shared(file: Path, name: PurePosixPath) -> int:
    """How many folders next to the file's name are the same."""
    count = 0
    for one, other in zip(reversed(file.parent.parts), reversed(name.parent.parts), strict=False):
        if fold(one) != fold(other):
            break
        count += 1
    return count
