"""The two trainings that learn from images without labels: a detector from its own averaged weights, and a student from its teacher."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.config.distillation import Weight
from stages.datasets.unlabeled.pool import UNLABELLED
from stages.detectors import Detector, Outputs
from stages.losses import Loss
from stages.training.batches.loader import TrainingBatch
from stages.training.batches.streams import Stream
from stages.training.distillation import Distillation, Lesson
from stages.training.loop import Task
from stages.training.teacher import Teacher
from stages.training.unlabeled.lesson import PseudoLabeler, UnlabeledLesson, task_terms


@dataclass(frozen=True)
class BothLessons:
    """A step's lessons on labeled images and on those without labels; None if it has none of the latter.

    factor: on the losses that compare networks. weight: on everything on images without labels, see TrainingBatch.
    """

    labeled: Lesson | None
    unlabeled: UnlabeledLesson | None
    factor: float = 1.0
    weight: float = 1.0


class SelfTraining(Task):
    """A detector that also learns what its averaged weights find in images without labels."""

    def __init__(self, detector: Detector, labeler: PseudoLabeler, images: Stream) -> None:
        super().__init__(detector)
        self.streams = {UNLABELLED: images}
        self._labeler = labeler
        self.memory = () if labeler.live is None else (labeler.live,)

    def follow(self, averaged: nn.Module) -> None:
        """See Task.follow."""
        _follow(self._labeler, averaged)

    def prepare(self, batch: TrainingBatch, step: int) -> BothLessons:
        """The targets of the images without labels."""
        other = batch.others.get(UNLABELLED)
        if other is None:
            return BothLessons(None, None)
        return BothLessons(None, self._labeler.lesson(other, step, self.detector, None), weight=other.weight)

    def forward(self, batch: TrainingBatch, extra: BothLessons) -> tuple[Tensor, dict[str, Tensor]]:
        """The task losses on labeled images plus, weighted, those on the others."""
        loss, terms = super().forward(batch, None)
        if extra.unlabeled is None or extra.unlabeled.targets is None:
            return loss, terms
        found = task_terms(self.detector(extra.unlabeled.images, extra.unlabeled.targets), extra.unlabeled)
        added, more = _weighted(found, extra.weight)
        return loss + added, terms | more


class DistillationWithUnlabeled(Distillation):
    """A student that also learns from images without labels.

    Args:
        compared: names of the losses that compare the networks on these images: they read no targets.
        images: None if they are put into batches by somebody else.
        only: whether labeled images are left out. Adapters of losses that are not compared then learn nothing, and are not trained.
    """

    def __init__(
        self,
        detector: Detector,
        teacher: Teacher,
        losses: Mapping[str, tuple[Loss, Weight]],
        factor: Callable[[int], float],
        every: int,
        share: float,
        labeler: PseudoLabeler,
        compared: Collection[str],
        images: Stream | None,
        *,
        only: bool = False,
    ) -> None:
        super().__init__(detector, teacher, losses, factor, every, share)
        self.streams = {} if images is None else {UNLABELLED: images}
        self.reads_labeled = not only
        self._labeler, self._compared, self._only = labeler, frozenset(compared), only
        for name, loss in self._named():
            if only and name not in self._compared:
                loss.requires_grad_(False)
        if labeler.live is not None:
            self.memory = (*self.memory, labeler.live)

    def follow(self, averaged: nn.Module) -> None:
        """See Task.follow."""
        _follow(self._labeler, averaged)

    def prepare(self, batch: TrainingBatch, step: int) -> BothLessons:  # type: ignore[override]
        """The teacher's lesson on the labeled images, and the one on the others."""
        own = None if self._only else super().prepare(batch, step)
        other = batch.others.get(UNLABELLED)
        if other is None:
            return BothLessons(own, None)
        assert other.clean is not None
        teacher = self.teacher(other.clean) if self._compared else None
        return BothLessons(own, self._labeler.lesson(other, step, self.detector, teacher), self._factor(step), other.weight)

    def forward(self, batch: TrainingBatch, extra: BothLessons) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        """What Distillation sums, plus the weighted terms on images without labels, under "unlabelled/"."""
        loss: Tensor | None = None
        terms: dict[str, Tensor] = {}
        if not self._only:
            loss, terms = super().forward(batch, extra.labeled)
        if extra.unlabeled is not None and (extra.unlabeled.targets is not None or extra.unlabeled.teacher is not None):
            added, more = _weighted(self._learn(extra.unlabeled, extra.factor), extra.weight)
            loss, terms = added if loss is None else loss + added, terms | more
        if loss is None:  # a part of a batch that has none of these images
            loss = torch.stack([weight.sum() for weight in self.parameters()]).sum() * 0
        return loss, terms

    def _learn(self, lesson: UnlabeledLesson, factor: float) -> tuple[Tensor, dict[str, Tensor]]:
        outputs: Outputs = self.detector(lesson.images, lesson.targets)
        total, terms = task_terms(outputs, lesson)
        for name, loss in self._named():
            if lesson.teacher is None or name not in self._compared:
                continue
            for term, value in loss(outputs, lesson.teacher, ()).items():
                weighted = value * (self.balance.factor(f"{name}/{term.partition('/')[0]}") * loss.weight(term) * factor)
                terms |= {f"{UNLABELLED}/{name}/{term}": value, f"weighted/{UNLABELLED}/{name}/{term}": weighted}
                total = total + weighted
        return total, terms


def _weighted(found: tuple[Tensor, dict[str, Tensor]], weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """A sum and its terms times a weight."""
    if weight == 1.0:
        return found
    total, terms = found
    return total * weight, {name: value * weight for name, value in terms.items()}


def _follow(labeler: PseudoLabeler, averaged: nn.Module) -> None:
    if labeler.live is not None:
        assert isinstance(averaged, Detector)
        labeler.live.follow(averaged)
