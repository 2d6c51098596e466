"""The training for int8: a student that computes as its int8 graph and learns from targets, teacher, and itself in fp32."""

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor

from stages.config import DistillConfig, LossConfig
from stages.config.distillation import Weight
from stages.detectors import Detector, Outputs, Target
from stages.int8.folding import norms
from stages.int8.rounding import Rounding
from stages.int8.sites import not_rounded
from stages.losses import Loss
from stages.training.batches.loader import TrainingBatch
from stages.training.distillation import Distillation, Lesson, build_losses, loss_factor
from stages.training.teacher import Teacher

OWN = "fp32_"
"""Prefix of the names of losses against the student in fp32."""


class _Held:
    """What the student in fp32 computes for the present batch."""

    outputs: Outputs | None = None


class _OwnLoss(Loss):
    """A loss whose teacher is the student in fp32."""

    def __init__(self, loss: Loss, held: _Held) -> None:
        super().__init__()
        self.loss = loss
        self.weights = loss.weights
        self._held = held

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """See Loss.forward; `teacher` is not looked at."""
        assert self._held.outputs is not None, "the student in fp32 runs before its losses"
        terms: dict[str, Tensor] = self.loss(student, self._held.outputs, targets)
        return terms


class Int8Distillation(Distillation):
    """See the module; batch norms keep their statistics.

    Args:
        weight: the factor on the whole loss.
    """

    def __init__(
        self,
        detector: Detector,
        teacher: Teacher,
        own: Teacher,
        losses: Mapping[str, tuple[Loss, Weight]],
        own_losses: Mapping[str, tuple[Loss, Weight]],
        config: DistillConfig,
        rounding: Rounding,
        weight: float,
    ) -> None:
        held = _Held()
        wrapped: dict[str, tuple[Loss, Weight]] = {f"{OWN}{name}": (_OwnLoss(loss, held), by) for name, (loss, by) in own_losses.items()}
        factor = loss_factor(config.model_copy(update={"warmup_steps": 0, "fade": "none"}), 1)
        super().__init__(detector, teacher, {**losses, **wrapped}, factor, 0, config.share)
        self._own, self._held, self._rounding, self._weight = own, held, rounding, weight

    def train(self, mode: bool = True) -> Self:
        """As torch's, but batch norms stay in eval mode."""
        super().train(mode)
        for norm in norms(self.detector):
            norm.eval()
        return self

    def prepare(self, batch: TrainingBatch, step: int) -> Lesson | None:
        """The teacher's lesson; the student in fp32 sees the same images."""
        if any(name.startswith(OWN) for name in self.losses):
            self._held.outputs = self._own(batch.images)
        return super().prepare(batch, step)

    def forward(self, batch: TrainingBatch, extra: Lesson | None) -> tuple[Tensor, dict[str, Tensor]]:
        """What Distillation sums, of the rounded student."""
        with self._rounding:
            loss, terms = super().forward(batch, extra)
        if (site := self._rounding.unreached()) is not None:
            raise not_rounded(self.detector, f"what {site.module} computes in")
        return loss * self._weight, terms


def task(
    detector: Detector,
    teacher: Detector,
    own: Detector,
    config: DistillConfig,
    own_losses: tuple[LossConfig, ...],
    rounding: Rounding,
    weight: float,
    seed: int,
) -> Int8Distillation:
    """The task with the losses of both teachers.

    Args:
        own: the student in fp32.

    Raises:
        ConfigError: a loss cannot be built for its pair.
    """
    losses = build_losses(config, detector, teacher, seed)
    itself = build_losses(config.model_copy(update={"losses": own_losses}), detector, own, seed, key="int8.losses")
    guide = Teacher(teacher, config.teacher_precision)
    return Int8Distillation(detector, guide, Teacher(own, "fp32"), losses, itself, config, rounding, weight)
