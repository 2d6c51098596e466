"""Train a detector on images only: the teacher, and the baseline, which is the student's network trained without the teacher."""

import hashlib
from pathlib import Path

from deploy.errors import ArtifactError
from deploy.plugins import OptionRole
from stages.artifacts import Checkpoint, Dataset
from stages.config import DetectorConfig, ExportConfig, StudentConfig, TeacherConfig
from stages.measurement import splits
from stages.stage import stage


def weights_digest(weights: str | None) -> dict[str, str]:
    """The sha256 of a safetensors file, or of the one in a checkpoint folder.

    Raises:
        ArtifactError: there is no such file.
    """
    if weights is None:
        return {}
    file = weights_file(Path(weights))
    try:
        return {"weights": hashlib.sha256(file.read_bytes()).hexdigest()}
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror}; `weights` names a safetensors file or a checkpoint folder") from error


def weights_file(path: Path) -> Path:
    """The file itself, or a checkpoint folder's."""
    return path / "weights.safetensors" if path.is_dir() else path


def option_digests(detector: DetectorConfig) -> dict[str, str]:
    """The sha256 of each local file or folder that the detector's options name weights in."""
    paths = {name: Path(value) for name, value in detector.options_of(OptionRole.WEIGHTS).items() if value is not None}
    return {f"detector.{name}": _digest(path) for name, path in paths.items() if path.exists()}


def _digest(path: Path) -> str:
    """The sha256 of a file's content, or of the names and contents of a folder's files."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(path).as_posix()}\n".encode())
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def identity(config: TeacherConfig | StudentConfig, *others: object) -> dict[str, str]:
    """The content of the weights that training starts from or is replaced by."""
    return weights_digest(config.weights) | option_digests(config.detector)


@stage(version=2, identity=identity, resumable=True, distributed=True)
def train_teacher(
    out: Path, config: TeacherConfig, seed: int, device: str, split: str, dataset: Dataset, export: ExportConfig
) -> Checkpoint:
    """The teacher, trained, or loaded if config.weights names a file; judged on `split`."""
    return _train(out, config, seed, device, split, dataset, export, "teacher")


@stage(version=2, identity=identity, resumable=True, distributed=True)
def train_baseline(
    out: Path, config: StudentConfig, seed: int, device: str, split: str, dataset: Dataset, export: ExportConfig
) -> Checkpoint:
    """The student's network trained without the teacher: what distillation is measured against."""
    return _train(out, config, seed, device, split, dataset, export, "baseline")


def _train(
    out: Path,
    config: TeacherConfig | StudentConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    export: ExportConfig,
    label: str,
) -> Checkpoint:
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.training.checkpoint import build_detector, check_size, finish, load_weights
    from stages.training.loop import Task, Trainer

    splits.labeled_split(dataset, split)  # a missing or empty split is refused before the training, not after it
    detector = build_detector(config.detector, len(dataset.facts.contract.classes), seed)
    check_size(detector, config.detector, dataset.facts.contract)
    if config.weights is not None:
        load_weights(detector, Path(config.weights))
    epochs = 0
    if config.weights is None or isinstance(config, StudentConfig):
        detector = Trainer(Task(detector), dataset, config.train, seed=seed, device=device, folder=out, label=label).run()
        epochs = config.train.epochs
    return finish(out, detector, config.detector, epochs, dataset, split, export)
