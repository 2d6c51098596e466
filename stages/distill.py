"""Train the student with its teacher: the baseline's training, seed, images and views, plus the distillation losses."""

from pathlib import Path

from stages.artifacts import Checkpoint, Dataset
from stages.config import DistillConfig, ExportConfig, StudentConfig
from stages.stage import stage
from stages.training.digests import option_digests, weights_digest


def identity(config: DistillConfig, student: StudentConfig, *others: object) -> dict[str, str]:
    """The content of the weights that the student starts from."""
    return weights_digest(student.weights) | option_digests(student.detector)


@stage(version=2, identity=identity, resumable=True, distributed=True)
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
) -> Checkpoint:
    """The distilled student, judged on `split`; attention maps of both networks go to attention.npz for the report.

    Raises:
        ConfigError: a loss cannot be built for this pair, or one of them cannot give what it reads.
        DataError: the data has no such split.
        ArtifactError: a loss is not finite.
    """
    # Imported here: a stage that is reused, or judged on a machine without torch, must not import torch.
    from stages.processes import is_main_process
    from stages.training.checkpoint import build_detector, check_origin, check_size, finish, load_detector, load_weights
    from stages.training.distillation import Distillation, build_losses, loss_factor, write_attention
    from stages.training.loop import Trainer
    from stages.training.observer import Observer
    from stages.training.teacher import Teacher

    dataset.table(split)  # a missing or empty split is refused before the training, not after it
    large = load_detector(teacher)
    detector = build_detector(student.detector, len(dataset.facts.contract.classes), seed)
    check_size(detector, student.detector, dataset.facts.contract)
    check_origin(detector, dataset.facts.contract)
    if student.weights is not None:
        load_weights(detector, Path(student.weights))
    losses = build_losses(config, detector, large, seed)
    num_steps = student.train.num_steps(dataset.facts.splits["train"].num_images)
    guide = Teacher(large, config.teacher_precision, compiled=config.compile_teacher)
    task = Distillation(detector, guide, losses, loss_factor(config, num_steps), config.shares_every, config.share)
    observer = Observer(detector, dataset, split, export)
    view, schedule = config.student_view, student.train
    trainer = Trainer(task, dataset, schedule, seed=seed, device=device, folder=out, label="distill", observer=observer, student_view=view)
    trained = trainer.run()
    if is_main_process():
        write_attention(out, large, trained, dataset, split)
    return finish(out, trained, student.detector, student.train.epochs, dataset, split, export, trainer.curve)
