"""The gate on accuracy that `init` leaves as a comment, and that `run` fills in with what it reached.

Only a line that `init` wrote and nobody changed is touched, and only its number: everything else in a user's file stays as it is.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.machine import files

_BEFORE, _AFTER = "  # - {name: accuracy, metric: map, min: ", "}  # edgedistill run writes its own figure here; uncomment it to hold it"
_LINE = re.compile(re.escape(_BEFORE.encode()) + rb"([0-9.]+)" + re.escape(_AFTER.encode()) + rb"(?=\r?$)", re.MULTILINE)


def placeholder(figure: float = 0.0) -> str:
    """The commented gate."""
    return f"{_BEFORE}{figure:.3f}{_AFTER}\n"


def reached(summary: Mapping[str, Any]) -> float | None:
    """The lowest mAP of the measured targets, rounded down to three digits; None if none was measured."""
    found = [target["map"] for target in summary["targets"].values() if target["map"] is not None]
    return math.floor(min(found) * 1000 + 1e-9) / 1000 if found else None


def fill_in(path: Path, figure: float) -> str | None:
    """Write the figure into the file's commented gate, if it has one; the line to tell the user, None if it has none.

    The file is replaced in one step. If it cannot be written, it stays, and the line says so.
    """
    try:
        old = path.read_bytes()
        if not _LINE.search(old):
            return None
        new = _LINE.sub(
            lambda found: found[0].replace(found[1] + _AFTER.encode(), f"{figure:.3f}".encode() + _AFTER.encode()), old, count=1
        )
        if new != old:
            _replace(path.resolve(), new)
    except OSError as error:
        return f"{_hold(figure)} ({path} cannot be written: {error.strerror})"
    return f"{_hold(figure)}; {path} has it as a comment"


def _hold(figure: float) -> str:
    return f"to hold this accuracy from now on, add to gates: - {{name: accuracy, metric: map, min: {figure:.3f}}}"


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step, with its permissions."""
    with files.replacing(path) as scratch:
        scratch.write_bytes(content)
        scratch.chmod(path.stat().st_mode & 0o7777)
