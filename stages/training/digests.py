"""The content of the weights that a training starts from, as part of its key; imports no torch."""

import hashlib
from pathlib import Path

from deploy.errors import ArtifactError
from deploy.machine.files import sha256
from deploy.plugins import OptionRole
from stages.artifacts import WEIGHTS
from stages.config import DetectorConfig
from stages.facts import FACTS


def weights_digest(weights: str | None) -> dict[str, str]:
    """The sha256 of a safetensors file, or of the one in a checkpoint folder and of what the folder says of it.

    Raises:
        ArtifactError: there is no such file.
    """
    if weights is None:
        return {}
    file = weights_file(Path(weights))
    try:
        facts = {"weights.facts": sha256(file.with_name(FACTS))} if Path(weights, FACTS).is_file() else {}
        return {"weights": sha256(file)} | facts
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror}; `weights` names a safetensors file or a checkpoint folder") from error


def weights_file(path: Path) -> Path:
    """The file itself, or a checkpoint folder's."""
    return path / WEIGHTS if path.is_dir() else path


def option_digests(detector: DetectorConfig) -> dict[str, str]:
    """The sha256 of each local file or folder that the detector's options name weights in."""
    paths = {name: Path(value) for name, value in detector.options_of(OptionRole.WEIGHTS).items() if value is not None}
    return {f"detector.{name}": _digest(path) for name, path in paths.items() if path.exists()}


def _digest(path: Path) -> str:
    """The sha256 of a file's content, or of the names and contents of a folder's files."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(path).as_posix()}\n".encode("utf-8", "surrogateescape"))
        total.update(bytes.fromhex(sha256(file)))
    return total.hexdigest()
