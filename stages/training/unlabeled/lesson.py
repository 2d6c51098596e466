"""What images without labels add to a step of any training: targets for the task losses, and their weight."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.config import PseudoConfig
from stages.datasets.unlabeled.pool import UNLABELLED
from stages.detectors import Detector, Outputs, Target
from stages.training.batches.loader import TrainingBatch
from stages.training.unlabeled.live import LiveLabels
from stages.training.unlabeled.targets import Thresholds, certain, divided, painted

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class UnlabeledLesson:
    """One step's images without labels, as they are learned from.

    images: [B, 3, H, W]. targets: None if no pseudo-labels are used in this step. weight: the factor on the task losses.
    teacher: its outputs on the clean views; None if features are not compared.
    """

    images: Tensor
    targets: tuple[Target, ...] | None
    weight: float
    teacher: Outputs | None = None


class PseudoLabeler:
    """Decides who labels a step's images, and which detections are targets.

    Args:
        rule: null: no pseudo-labels.
        given: the thresholds of detections that come with the images; None if live labels replace them from the start.
        live: labels by the averaged weights, from the share `live_from` of the training on; None: never.
    """

    def __init__(
        self, rule: PseudoConfig | None, num_steps: int, given: Thresholds | None, live: LiveLabels | None = None, live_from: float = 0.0
    ) -> None:
        self._rule, self._num_steps, self._given = rule, num_steps, given
        self.live = live
        self._live_from = live_from

    def lesson(self, batch: TrainingBatch, step: int, detector: Detector, teacher: Outputs | None) -> UnlabeledLesson:
        """The lesson of a step on its images without labels, whose clean views come with them."""
        share = step / max(1, self._num_steps)
        weight = 0.0 if self._rule is None else self._rule.weight_at(share)
        targets = self._targets(batch, share) if weight else None
        if targets is None or detector.heeds_doubt:
            return UnlabeledLesson(batch.images, targets, weight, teacher)
        return UnlabeledLesson(painted(batch.images, targets), tuple(map(certain, targets)), weight, teacher)

    def _targets(self, batch: TrainingBatch, share: float) -> tuple[Target, ...] | None:
        assert self._rule is not None
        found, limits = batch.targets, self._given
        if self.live is not None and share >= self._live_from:
            assert batch.clean is not None
            if (own := self.live.thresholds(share)) is not None:
                found, limits = self.live.find(batch.clean), own
        if limits is None:
            return None
        here = limits.to(batch.images.device)
        return tuple(divided(target, here, ignore=self._rule.ignore) for target in found)


def task_terms(outputs: Outputs, lesson: UnlabeledLesson) -> tuple[Tensor, Terms]:
    """The weighted sum of the task losses on pseudo-labels, and its terms without the weight."""
    terms = {f"{UNLABELLED}/{name}": loss for name, loss in outputs.losses.items()}
    if not terms:
        return outputs.pyramid[0].new_zeros(()), {}
    weighted = torch.stack(list(terms.values())).sum() * lesson.weight
    return weighted, {**terms, f"{UNLABELLED}/objects": _per_image(lesson.targets or (), weighted), f"weighted/{UNLABELLED}": weighted}


def _per_image(targets: Sequence[Target], like: Tensor) -> Tensor:
    return like.new_tensor(sum(len(one.boxes) for one in targets) / max(1, len(targets)))
