"""stage.json: what a stage wrote, so that a result that is not whole any more is found."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deploy.machine import files
from deploy.machine.documents import parse_json
from pipeline.store.files import replace_json
from stages.facts import FACTS

STAMP = "stage.json"
Inputs = Mapping[str, str | None]
"""The `content` of each input of a stage."""
_BLOCK = 1 << 20
_LOG = "tensorboard/"


def stamp(folder: Path, instance: str, seconds: float, inputs: Inputs = MappingProxyType({})) -> None:
    """Write stage.json: sizes and hashes of all files that the stage wrote, and the contents of what it was made from."""
    written = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    written.pop(STAMP, None)  # of a process that was killed before the folder got its name
    assert FACTS in written, f"{instance} wrote no {FACTS}"
    sizes = {name: file.stat().st_size for name, file in written.items()}
    hashes = {name: _sha256(file, sizes[name]) for name, file in written.items()}
    replace_json(folder / STAMP, {"stage": instance, "seconds": seconds, "inputs": dict(inputs), "files": sizes, "sha256": hashes})


def stamped(folder: Path) -> dict[str, Any] | None:
    """The stamp of an artifact whose files are all there and not truncated; None if there is none."""
    try:
        found: dict[str, Any] = parse_json(files.read_bytes(folder / STAMP))
        whole = FACTS in found["files"] and all((folder / name).stat().st_size >= size for name, size in found["files"].items())
        return found if whole and float(found["seconds"]) >= 0 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def changed(folder: Path) -> str | None:
    """The first file of a stamped artifact that is gone, cut short or has other bytes than the stage wrote; None if there is none.

    None as well for a folder without a stamp. A file may have grown: TensorBoard's writer flushes when the process ends. Artifacts of
    earlier versions have no hashes.
    """
    if not (folder / STAMP).exists():
        return None
    try:
        found = parse_json(files.read_bytes(folder / STAMP))
        short = next((name for name, size in found["files"].items() if not _has(folder / name, size)), None)
        if short is not None or stamped(folder) is None:
            return short or STAMP
        sizes, hashes = found["files"], found.get("sha256", {})
        return next((name for name, expected in hashes.items() if _sha256(folder / name, sizes[name]) != expected), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return STAMP


def finished(folder: Path) -> dict[str, Any] | None:
    """The stamp of a complete artifact with the bytes that its stage wrote; None otherwise.

    Every byte is read, since a disk that returns wrong ones changes neither sizes nor times: about 1 s per GB.
    """
    found = stamped(folder)
    return found if found is not None and changed(folder) is None else None


def content(folder: Path) -> str | None:
    """A hash of what the stage wrote, apart from logs, whose names are times; None without a stamp, or with one of an earlier version."""
    try:
        hashes = parse_json(files.read_bytes(folder / STAMP))["sha256"]
        written = sorted((name, digest) for name, digest in hashes.items() if not name.startswith(_LOG))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return hashlib.sha256(json.dumps(written).encode()).hexdigest()


def outdated(made: Mapping[str, Any], inputs: Inputs) -> str | None:
    """The first input that has another content than when this was made.

    None if there is none, or if a stamp does not say, as in earlier versions.
    """
    before = made.get("inputs")
    known = before if isinstance(before, dict) else {}
    return next((name for name, now in inputs.items() if now is not None and known.get(name) not in (None, now)), None)


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size >= size


def _sha256(path: Path, size: int) -> str:
    """The hash of a file's first `size` bytes."""
    digest = hashlib.sha256()
    with files.open_regular(path) as file:
        while size > 0 and (block := file.read(min(size, _BLOCK))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
