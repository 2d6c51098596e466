"""A folder of results that is written completely, or left as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.errors import ArtifactError


@contextmanager
def written(out: Path, last: str) -> Iterator[Path]:
    """A folder whose files are moved into `out` if all goes well; otherwise, or after Ctrl-C, `out` is as it was.

    Args:
        last: the file that lists the others; it is moved when they are there.

    Raises:
        ArtifactError: `out` cannot be written.
    """
    there = out.exists()
    beside = out if there else next(path for path in out.absolute().parents if path.exists())
    try:
        scratch = TemporaryDirectory(prefix=".predict-", dir=beside)
    except OSError as error:
        raise ArtifactError(f"{out}: cannot be written ({error.strerror}); pass a different --out") from error
    with scratch as name:
        made, old = Path(name, "made"), Path(name, "old")
        made.mkdir()
        yield made
        if there:
            _move(made, out, old, last)
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            made.rename(out)


def _move(made: Path, out: Path, old: Path, last: str) -> None:
    below = [path.relative_to(made) for path in sorted(made.rglob("*"))]
    folders = [path for path in below if (made / path).is_dir()]
    files = sorted((path for path in below if path not in set(folders)), key=lambda path: path == Path(last))
    new = [path for path in folders if not (out / path).exists()]
    try:
        for path in folders:
            (out / path).mkdir(exist_ok=True)
            (old / path).mkdir(parents=True, exist_ok=True)
        old.mkdir(exist_ok=True)
        for path in files:
            _move_one(made / path, out / path, old / path)
    except BaseException as error:
        _undo(files, new, made, out, old)
        if isinstance(error, OSError):
            raise ArtifactError(
                f"{error.filename2 or error.filename}: cannot be written ({error.strerror}); pass a different --out"
            ) from error
        raise


def _move_one(made: Path, target: Path, old: Path) -> None:
    if target.is_dir():
        raise ArtifactError(f"{target}: is a folder, where a file of this name would be written; pass a different --out")
    if target.exists():
        target.replace(old)
    made.replace(target)


def _undo(files: list[Path], new: list[Path], made: Path, out: Path, old: Path) -> None:
    """Judged by what is where, since Ctrl-C may come between any two steps."""
    for path in files:
        if not (made / path).exists():
            (out / path).replace(made / path)
        if (old / path).exists():
            (old / path).replace(out / path)
    for path in reversed(new):
        if (out / path).exists():
            (out / path).rmdir()
