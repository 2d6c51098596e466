"""A step with images without labels, for measuring how long it takes: labeled images stand for them, every object for a detection."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from stages.config import DistillConfig
from stages.datasets.unlabeled.pool import UNLABELLED
from stages.detectors import Detector, Target
from stages.training.batches.loader import TrainingBatch
from stages.training.distillation import loss_factor
from stages.training.teacher import Teacher
from stages.training.unlabeled.lesson import PseudoLabeler
from stages.training.unlabeled.plan import Losses, refuse_unlearnable
from stages.training.unlabeled.targets import thresholds_of
from stages.training.unlabeled.tasks import DistillationWithUnlabeled
from stages.unlabeled_facts import PseudoClass

_ALL = PseudoClass(accept=0.5, low=0.5, sure=0.5, num_objects=0, precision=None, recall=None)


def timed_task(
    detector: Detector, teacher: Teacher, losses: Losses, config: DistillConfig, classes: Sequence[str]
) -> DistillationWithUnlabeled:
    """The student's task at its full weight from the first step.

    Raises:
        ConfigError: nothing can be learned from images without labels.
    """
    own = config.from_unlabelled
    assert own is not None
    rule = None if own.pseudo is None else own.pseudo.model_copy(update={"start": 0.0, "warmup": 0.0})
    limits = None if rule is None else thresholds_of(dict.fromkeys(classes, _ALL), classes)
    compared = refuse_unlearnable(detector, own, losses, teacher.detector)
    labeler = PseudoLabeler(rule, 1, limits)
    return DistillationWithUnlabeled(
        detector, teacher, losses, loss_factor(config, 1), 0, config.share, labeler, compared, None, only=own.only
    )


def with_unlabeled(batch: TrainingBatch, ratio: float) -> TrainingBatch:
    """The batch with `ratio` times as many images that stand for those without labels; a plain step does not look at them."""
    chosen = [number % len(batch.targets) for number in range(max(1, round(ratio * len(batch.targets))))]
    targets = tuple(_found(batch.targets[number]) for number in chosen)
    other = TrainingBatch(batch.images[chosen], targets, clean=batch.images[chosen])
    return replace(batch, others={**batch.others, UNLABELLED: other})


def _found(target: Target) -> Target:
    return Target(target.boxes, target.labels, target.masks, torch.ones(len(target.labels)))
