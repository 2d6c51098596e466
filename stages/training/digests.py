"""The content of the weights that a training starts from, as part of its key; imports no torch."""

import hashlib
import json
from pathlib import Path

from deploy.contract import ModelContract
from deploy.errors import ArtifactError
from deploy.machine.files import sha256
from deploy.plugins import OptionRole
from stages.artifacts import WEIGHTS
from stages.config import DetectorConfig
from stages.facts import FACTS


def weights_digest(weights: str | None) -> dict[str, str]:
    """The sha256 of a safetensors file, or of the one in a checkpoint folder and of the classes and pixels that the folder says it has.

    Raises:
        ArtifactError: there is no such file.
    """
    if weights is None:
        return {}
    file = weights_file(Path(weights))
    contract = contract_of(Path(weights))
    said = {} if contract is None else {"weights.contract": hashlib.sha256(contract.model_dump_json().encode()).hexdigest()}
    try:
        return {"weights": sha256(file)} | said
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror}; `weights` names a safetensors file or a checkpoint folder") from error


def weights_file(path: Path) -> Path:
    """The file itself, or a checkpoint folder's."""
    return path / WEIGHTS if path.is_dir() else path


def contract_of(path: Path) -> ModelContract | None:
    """The classes and pixels of a checkpoint folder's detector; None for a file, and for a folder that does not say it as ours do."""
    try:
        return ModelContract.model_validate(json.loads((path / FACTS).read_bytes())["contract"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
