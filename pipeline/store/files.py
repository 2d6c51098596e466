"""Files and folders that are written completely or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

from deploy.errors import ArtifactError
from deploy.machine.files import replacing


def replace_text(path: Path, text: str) -> None:
    r"""Write a file completely or not at all.

    What UTF-8 cannot hold, such as names of files in a different encoding, becomes escapes like \udce9, which JSON reads as they were.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")


def replace_json(path: Path, value: Any) -> None:
    """Write strict JSON, completely or not at all; NaN and infinity raise ValueError."""
    replace_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What replace_json writes."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def replace_folder(scratch: Path, path: Path) -> None:
    """Rename a finished folder to `path`; an old folder there is also renamed first, so `path` is never half deleted."""
    old = _old(path)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    scratch.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def put_back(path: Path) -> None:
    """Rename the old folder back if a process was killed in `replace_folder` after it had renamed it, and before the new one."""
    if _old(path).is_dir() and not path.exists():
        _old(path).rename(path)


def make_folder(path: Path) -> None:
    """Create a folder of the store, and those above it.

    Raises:
        ArtifactError: it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be created ({error.strerror}); choose a different folder with --runs") from error


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")
