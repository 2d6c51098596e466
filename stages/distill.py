"""Train the student with its teacher: the baseline's training, seed, images and views, plus the distillation losses."""

from pathlib import Path

from stages.artifacts import Checkpoint, Dataset, PseudoLabels
from stages.config import DistillConfig, ExportConfig, StudentConfig
from stages.stage import stage
from stages.training.digests import option_digests, weights_digest


def identity(config: DistillConfig, student: StudentConfig, *others: object) -> dict[str, str]:
    """The content of the weights that the student starts from."""
    return weights_digest(student.weights) | option_digests(student.detector)


@stage(version=3, identity=identity, resumable=True, distributed=True)
def distill(
    out: Path,
    config: DistillConfig,
    student: StudentConfig,
    seed: int,
    device: str,
    split: str,
    dataset: Dataset,
    teacher: Checkpoint,
    export: ExportConfig,
    labels: PseudoLabels | None = None,
) -> Checkpoint:
    """The distilled student, judged on `split`; attention maps of both networks go to attention.npz for the report.

    `labels` are what the teacher found in images without labels; None if nothing is learned from any.

    Raises:
        ConfigError: a loss cannot be built for this pair, or one of them cannot give what it reads.
        DataError: the data has no such split.
        ArtifactError: a loss is not finite.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.processes import is_main_process
    from stages.training.checkpoint import finish, load_detector, starting_detector
    from stages.training.distillation import write_attention
    from stages.training.loop import Trainer
    from stages.training.observer import Observer
    from stages.training.unlabeled.plan import Judging, student_task

    dataset.table(split)  # a missing or empty split is refused before the training, not after it
    large = load_detector(teacher)
    detector = starting_detector(student.detector, student.weights, dataset.facts.contract, seed)
    task = student_task(detector, large, config, student.train, seed, Judging(dataset, split, export), labels)
    observer = Observer(detector, dataset, split, export)
    view, schedule = config.student_view, student.train
    trainer = Trainer(task, dataset, schedule, seed=seed, device=device, folder=out, label="distill", observer=observer, student_view=view)
    trained = trainer.run()
    if is_main_process():
        write_attention(out, large, trained, dataset, split)
    return finish(out, trained, student.detector, student.train.epochs, dataset, split, export, trainer.curve)
