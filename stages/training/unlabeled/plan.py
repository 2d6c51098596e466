"""How the sections teacher.unlabelled and distill.unlabelled become a task with a stream of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy import plugins
from deploy.errors import ConfigError
from stages.artifacts import Dataset, ImagePool, PseudoLabels
from stages.config import DistillConfig, ExportConfig, SelfTrainingConfig, TrainConfig, UnlabelledConfig
from stages.config.distillation import Weight
from stages.detectors import Detector
from stages.losses import Loss
from stages.training.batches.streams import Stream, shuffled
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.loop import Task
from stages.training.teacher import Teacher
from stages.training.unlabeled.lesson import PseudoLabeler
from stages.training.unlabeled.live import LiveLabels
from stages.training.unlabeled.targets import thresholds_of
from stages.training.unlabeled.tasks import DistillationWithUnlabeled, SelfTraining
from stages.training.unlabeled.views import UnlabeledImages

Losses = Mapping[str, tuple[Loss, Weight]]


@dataclass(frozen=True)
class Judging:
    """Where live labels find their thresholds."""

    dataset: Dataset
    split: str
    export: ExportConfig


def teacher_task(
    detector: Detector,
    config: SelfTrainingConfig,
    train: TrainConfig,
    seed: int,
    judging: Judging,
    pool: ImagePool,
    labels: PseudoLabels | None = None,
) -> Task:
    """A detector that labels for itself, by its averaged weights, or learns the labels of another one.

    Raises:
        DataError: thresholds have to be chosen, and the split has no objects.
    """
    dataset = judging.dataset
    contract, num_steps = dataset.facts.contract, train.num_steps(dataset.facts.splits["train"].num_images)
    found = () if labels is None else labels.coco()["annotations"]
    masks = labels is not None and detector.mask_frame is not None
    images = UnlabeledImages(some_of(pool.images(), config.images), contract, train, config.strong, seed, found, masks=masks)
    live = None if labels is not None else LiveLabels(dataset, judging.split, judging.export, config.pseudo)
    given = None if labels is None else thresholds_of(labels.facts.classes, contract.classes)
    labeler = PseudoLabeler(config.pseudo, num_steps, given, live)
    return SelfTraining(detector, labeler, _stream(images, config, train, dataset))


def student_task(
    detector: Detector,
    teacher: Detector,
    config: DistillConfig,
    train: TrainConfig,
    seed: int,
    judging: Judging,
    labels: PseudoLabels | None,
) -> Task:
    """A student that learns from its teacher, and on images without labels if there are `labels`.

    Raises:
        ConfigError: a loss cannot be built for this pair; nothing can be learned from images without labels.
    """
    dataset, own = judging.dataset, config.from_unlabelled
    losses = build_losses(config, detector, teacher, seed)
    guide = Teacher(teacher, config.teacher_precision, compiled=config.compile_teacher)
    num_steps = train.num_steps(dataset.facts.splits["train"].num_images)
    learning = detector, guide, losses, loss_factor(config, num_steps), config.shares_every, config.share
    if labels is None or own is None:
        return Distillation(*learning)
    compared = refuse_unlearnable(detector, own, losses, teacher)
    found = labels.coco()
    boxes = found["annotations"] if own.pseudo is not None else ()
    rows, masks = some_of(found["images"], own.images), own.pseudo is not None and detector.mask_frame is not None
    images = UnlabeledImages(rows, dataset.facts.contract, train, own.strong, seed, boxes, masks=masks)
    stream, labeler = _stream(images, own, train, dataset), _labeler(own, num_steps, judging, labels)
    return DistillationWithUnlabeled(*learning, labeler, compared, stream, only=own.only)


def _labeler(own: UnlabelledConfig, num_steps: int, judging: Judging, labels: PseudoLabels) -> PseudoLabeler:
    if own.pseudo is None:
        return PseudoLabeler(None, num_steps, None)
    limits = thresholds_of(labels.facts.classes, judging.dataset.facts.contract.classes)
    live = None if own.refine is None else LiveLabels(judging.dataset, judging.split, judging.export, own.pseudo)
    return PseudoLabeler(own.pseudo, num_steps, limits, live, own.refine or 0.0)


def refuse_unlearnable(detector: Detector, config: UnlabelledConfig, losses: Losses, teacher: Detector) -> list[str]:
    """The losses that compare networks on images without labels: those that read no targets.

    Raises:
        ConfigError: there is none, and no pseudo-labels either; or pseudo-labels without the masks that the student learns.
    """
    if config.pseudo is not None and detector.mask_frame is not None and teacher.mask_frame is None:
        raise ConfigError(
            f"distill.unlabelled.pseudo: the student, {detector.name}, learns masks, and the teacher, {teacher.name}, finds none; use a "
            "teacher with masks, or set it to null to compare features only"
        )
    found = [name for name in losses if config.features and "targets" not in plugins.load("stages.losses", name).READS]
    if not found and config.pseudo is None:
        given = ", ".join(losses) or "no loss with a weight above 0"
        raise ConfigError(
            f"distill.unlabelled: {given}: none can compare networks without targets, and pseudo is null; use pseudo or another loss"
        )
    return found


def some_of(rows: Sequence[dict[str, Any]], most: int | None) -> list[dict[str, Any]]:
    """At most this number of the images in their order: the same ones every time, and with a larger number those and others."""
    if most is None or most >= len(rows):
        return list(rows)
    return [rows[index] for index in sorted(shuffled(len(rows), seed=0, epoch=0)[:most])]


def _stream(images: UnlabeledImages, config: UnlabelledConfig | SelfTrainingConfig, train: TrainConfig, dataset: Dataset) -> Stream:
    labeled = min(train.batch_size, dataset.facts.splits["train"].num_images)
    return Stream(images, len(images), config.batch_size(labeled))
