"""stage.json: what a stage wrote, so that a result that is not whole any more is found."""

import hashlib
from pathlib import Path
from typing import Any

from deploy.machine import files
from deploy.machine.documents import parse_json
from pipeline.store.files import replace_json
from stages.facts import FACTS

STAMP = "stage.json"
_BLOCK = 1 << 20


def stamp(folder: Path, instance: str, seconds: float) -> None:
    """Write stage.json: sizes and hashes of all files that the stage wrote."""
    written = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    assert FACTS in written, f"{instance} wrote no {FACTS}"
    sizes = {name: file.stat().st_size for name, file in written.items()}
    hashes = {name: _sha256(file, sizes[name]) for name, file in written.items()}
    replace_json(folder / STAMP, {"stage": instance, "seconds": seconds, "files": sizes, "sha256": hashes})


def stamped(folder: Path) -> dict[str, Any] | None:
    """The stamp of an artifact whose files are all there and not truncated; None if there is none."""
    try:
        found: dict[str, Any] = parse_json(files.read_bytes(folder / STAMP))
        whole = FACTS in found["files"] and all((folder / name).stat().st_size >= size for name, size in found["files"].items())
        return found if whole and float(found["seconds"]) >= 0 else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def changed(folder: Path) -> str | None:
    """The first file of a stamped artifact whose bytes are not those that the stage wrote; None if there is none.

    A file may have grown: TensorBoard's writer flushes when the process ends. Artifacts of earlier versions have no hashes.
    """
    found = stamped(folder) or {}
    sizes = found.get("files", {})
    try:
        return next((name for name, expected in found.get("sha256", {}).items() if _sha256(folder / name, sizes[name]) != expected), None)
    except (OSError, KeyError, TypeError, AttributeError):
        return STAMP


def finished(folder: Path) -> dict[str, Any] | None:
    """The stamp of a complete artifact with the bytes that its stage wrote; None otherwise.

    Every byte is read, since a disk that returns wrong ones changes neither sizes nor times: about 1 s per GB.
    """
    found = stamped(folder)
    return found if found is not None and changed(folder) is None else None


def _sha256(path: Path, size: int) -> str:
    """The hash of a file's first `size` bytes."""
    digest = hashlib.sha256()
    with files.open_regular(path) as file:
        while size > 0 and (block := file.read(min(size, _BLOCK))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
