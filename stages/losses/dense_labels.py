"""Dense labels: what the teacher's head says at every place is the student's target there, whatever the score.

After Zhou et al., "Dense Teacher: Dense Pseudo-Labels for Semi-supervised Object Detection", ECCV 2022,
https://arxiv.org/abs/2207.02541; terms and weights from Megvii-BaseDetection/DenseTeacher.

For dense detectors with equal numbers of boxes per position.

Constants: classes weigh 4, boxes and quality 1; classes are weighted by the square of the probabilities' difference (quality focal loss).

Departures: every place has the teacher's probability as its target, where the paper takes the surest 1% of the places and no object in
all others, because crowded images have objects at more places than that. Boxes and quality are learned at every place in proportion to
the teacher's score there, with its quality even where the student has none, and all sums are divided by the sum of these scores.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import generalized_box_iou_loss

from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.levels import LevelPair
from stages.losses.features.options import Strides
from stages.losses.heads.rows import LevelRows, paired, rows
from stages.processes import shared_count

READS = ("head", "decoded")
INVARIANT_TO = ("batch",)


class DenseLabels(Loss):
    """See `build`; `product`: how the teacher's scores are made, see HeadShape."""

    def __init__(self, levels: tuple[LevelPair, ...], strides: tuple[int, ...], *, product: bool) -> None:
        super().__init__()
        self.levels, self.strides, self.product = levels, strides, product
        self.weights = {"classes": 4.0}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "classes" and "boxes" of each level, and "quality" if both heads have it."""
        found = rows(student, teacher, self.levels)
        qualities = [(_quality(student, pair.own), _quality(teacher, pair.other)) for pair in self.levels]
        scores = [self._scores(level, quality) for level, (_, quality) in zip(found, qualities, strict=True)]
        count = shared_count(torch.stack([one.sum() for one in scores]).sum())
        terms: dict[str, Tensor] = {}
        for stride, level, (own, other), score in zip(self.strides, found, qualities, scores, strict=True):
            terms[f"classes/{stride}"] = focused(level.logits, level.other_logits).sum() / count
            apart = generalized_box_iou_loss(level.boxes, level.other_boxes, reduction="none")
            terms[f"boxes/{stride}"] = (apart * score).sum() / count
            if own is not None and other is not None:
                wrong = binary_cross_entropy_with_logits(own, other.detach().sigmoid(), reduction="none")
                terms[f"quality/{stride}"] = (wrong * score).sum() / count
        return terms

    @torch.no_grad()
    def _scores(self, level: LevelRows, quality: Tensor | None) -> Tensor:
        """The teacher's score of each place [B, N], as its graph computes it."""
        best = level.other_logits.sigmoid().amax(dim=-1)
        if quality is None:
            return best
        products = best * quality.sigmoid()
        return products if self.product else products.sqrt()


def focused(own: Tensor, other: Tensor) -> Tensor:
    """Cross entropy of the student's probabilities with the teacher's, times their squared difference; both are logits."""
    with torch.autocast(own.device.type, enabled=False):
        wanted = other.sigmoid()
        return binary_cross_entropy_with_logits(own, wanted, reduction="none") * (wanted - own.sigmoid()).square()


def _quality(outputs: Outputs, index: int) -> Tensor | None:
    """A level's logits of quality [B, N]; None for heads without it."""
    return outputs.head["quality"][index][..., 0].float() if "quality" in outputs.head else None


def build(student: NetworkSide, teacher: NetworkSide, *, strides: Strides = None) -> Loss:
    """Classes, boxes and quality at every place, with the published weights.

    Raises:
        ConfigError: different kinds of heads, or numbers of boxes per position.
    """
    levels = paired("dense_labels", student, teacher, strides)
    return DenseLabels(levels, tuple(student.strides[level.own] for level in levels), product=teacher.head.product)
