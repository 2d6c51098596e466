"""Train a detector on images only: the teacher, and the baseline, which is the student's network trained without the teacher."""

from collections.abc import Mapping
from pathlib import Path

from deploy.contract import Accuracy, CocoNumbers
from deploy.errors import ArtifactError
from stages.artifacts import Checkpoint, Dataset, ImagePool, PseudoLabels
from stages.config import DetectorConfig, ExportConfig, StudentConfig, TeacherConfig
from stages.stage import stage
from stages.training.digests import option_digests, weights_digest


def identity(config: TeacherConfig | StudentConfig, *others: object) -> dict[str, str]:
    """The content of the weights that training starts from or is replaced by."""
    return weights_digest(config.weights) | option_digests(config.detector)


@stage(version=2, identity=identity, resumable=True, distributed=True)
def train_teacher(
    out: Path,
    config: TeacherConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    export: ExportConfig,
    pool: ImagePool | None = None,
    classes: Mapping[str, str] | None = None,
    labels: PseudoLabels | None = None,
) -> Checkpoint:
    """The teacher, trained, or loaded if config.weights names a file; judged on `split`. It also learns from the pool, if there is one.

    Args:
        classes: its names for the data's classes if its weights are for more; None: they are the data's.
        labels: what another teacher found in the pool; None: it labels for itself.
    """
    return _train(out, config, seed, device, split, dataset, export, "teacher", pool, classes, labels)


@stage(version=2, identity=identity, resumable=True, distributed=True)
def train_baseline(
    out: Path, config: StudentConfig, seed: int, device: str, split: str, dataset: Dataset, export: ExportConfig
) -> Checkpoint:
    """The student's network trained without the teacher: what distillation is measured against."""
    return _train(out, config, seed, device, split, dataset, export, "baseline")


@stage(version=1)
def untrained_teacher(out: Path, config: DetectorConfig, seed: int, split: str, dataset: Dataset, export: ExportConfig) -> Checkpoint:
    """The teacher's network with random weights, whichever its options name: what it teaches is no knowledge.

    Its accuracy is undefined if its answers are invalid, as those of random weights may be.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.measurement.torch_accuracy import graph_options
    from stages.training.checkpoint import build_detector, finish, save

    contract = dataset.facts.contract
    detector = build_detector(config, len(contract.classes), seed, pretrained=False).eval()
    try:
        return finish(out, detector, config, 0, dataset, split, export)
    except ArtifactError:
        undefined = dict.fromkeys([*CocoNumbers.model_fields])
        accuracy = Accuracy(split=split, num_images=dataset.split(split).num_images, per_class={}, **undefined)
        save(out, detector, config, contract, 0, accuracy, graph_options(export))
        return Checkpoint(out)


def _train(
    out: Path,
    config: TeacherConfig | StudentConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    export: ExportConfig,
    label: str,
    pool: ImagePool | None = None,
    classes: Mapping[str, str] | None = None,
    labels: PseudoLabels | None = None,
) -> Checkpoint:
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.training.checkpoint import check_origin, check_size, finish, starting_detector
    from stages.training.loop import Task, Trainer
    from stages.training.observer import Observer
    from stages.training.unlabeled.plan import Judging, teacher_task
    from stages.training.unlabeled.subset import reduced, taught_classes

    dataset.table(split)  # a missing or empty split is refused before the training, not after it
    contract = dataset.facts.contract
    if classes is not None and isinstance(config, TeacherConfig):
        detector = reduced(config, taught_classes(classes, contract.classes), seed)
        check_size(detector, config.detector, contract)
        check_origin(detector, contract)
    else:
        detector = starting_detector(config.detector, config.weights, contract, seed)
    if config.weights is not None and isinstance(config, TeacherConfig):
        return finish(out, detector, config.detector, 0, dataset, split, export)
    observer = Observer(detector, dataset, split, export)
    task = Task(detector)
    if pool is not None and isinstance(config, TeacherConfig) and config.from_unlabelled is not None:
        task = teacher_task(detector, config.from_unlabelled, config.train, seed, Judging(dataset, split, export), pool, labels)
    trainer = Trainer(task, dataset, config.train, seed=seed, device=device, folder=out, label=label, observer=observer)
    return finish(out, trainer.run(), config.detector, config.train.epochs, dataset, split, export, trainer.curve)
