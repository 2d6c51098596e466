"""Only one process trains at a time in a folder of studies."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone(runs: Path) -> Iterator[None]:
    """Hold the folder, or end the program with exit code 2 if a different process holds it."""
    runs.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(runs / "lock").acquire(timeout=0):
            yield
    except Timeout:
        print(f"{runs / 'lock'}: a different process is training; wait until it has ended", file=sys.stderr)
        sys.exit(2)
