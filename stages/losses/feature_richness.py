"""Feature richness: the student imitates where the teacher is sure of an object, with or without a label.

Du et al., "Distilling Object Detectors with Feature Richness", NeurIPS 2021, https://arxiv.org/abs/2111.00674. For teachers whose head
has scores at every position: dense detectors, and two-stage ones by the objectness of their proposal network.

Constants: weights of features and classes 0.005 and 0.02; for FCOS 0.01 and 0.05, GFL 0.1 and 0.05, two-stage students 0.002 and 0.1
(duzhixing/FRS, config/distill_frs).

The formulas are those of detectors/distill_frs_single.py and distill_frs_two.py there, the 3x3 adapters those of neck/adap.py.
Departures: the authors raise the weight over 500 steps; here distill.warmup_steps does. Heads that differ in their number of anchors are
compared by each position's best anchor, classes and objectness by the best class. Students by set prediction have no scores at
positions: they imitate features only.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from deploy.errors import ConfigError
from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.level_loss import LevelLoss, Pairing, pairing
from stages.losses.features.levels import adapters, resized
from stages.losses.features.options import Missing, Strides
from stages.losses.features.scores import comparable, score_logits
from stages.processes import mean_over_processes

READS = ("pyramid", "teacher_head")
INVARIANT_TO = ("batch",)

CONSTANTS: Mapping[str, tuple[float, float]] = {
    "two_stage": (0.002, 0.1),
    "fcos": (0.01, 0.05),
    "gfl": (0.1, 0.05),
    "others": (0.005, 0.02),
}
"""Weights of features and classes, by the student; "others" is RetinaNet's."""


class FeatureRichness(LevelLoss):
    """See `build`."""

    def __init__(self, paired: Pairing, feature: float, classes: float) -> None:
        super().__init__(paired, adapters("conv3x3", paired.widths))
        self.weights = {"feature": feature, "classes": classes}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "feature" and "classes" of each level; the latter if it has a weight."""
        terms: dict[str, Tensor] = {}
        scores = score_logits(teacher)
        own_scores = score_logits(student) if self.weights["classes"] else ()
        for pair, (stride, own, other) in zip(self.paired.levels, self.adapted(student, teacher), strict=True):
            place = own.shape[-2], own.shape[-1]
            known = scores[pair.other].detach()
            rich = resized(known.flatten(1, 2).sigmoid(), *place).amax(dim=1)
            total = mean_over_processes(rich.sum()).clamp(min=1e-6)
            terms[f"feature/{stride}"] = ((own - other).square().sum(dim=1) * rich).sum() / total
            if own_scores:
                mine, theirs = comparable(own_scores[pair.own], known)
                entropy = binary_cross_entropy_with_logits(mine, resized(theirs.sigmoid(), *place), reduction="none")
                terms[f"classes/{stride}"] = (entropy.sum(dim=1) * rich).sum() / total
        return terms


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    feature_weight: Annotated[float, Field(ge=0)] | None = None,
    classes_weight: Annotated[float, Field(ge=0)] | None = None,
    strides: Strides = None,
    missing: Missing = "skip",
) -> Loss:
    """Errors of features and scores, weighted by the teacher's best score at each position; null: published values.

    Args:
        feature_weight: weight of the squared error between features, summed over channels.
        classes_weight: weight of the cross entropy between scores, summed over classes and anchors; null: 0 for students by set prediction.

    Raises:
        ConfigError: a weight of classes for a student that has no scores at positions.
    """
    scored = "teacher_head" in student.gives
    if classes_weight and not scored:
        lacking = f"the student, {student.detector}, has no scores at positions"
        raise ConfigError(f"distill.losses: feature_richness: classes_weight: {lacking}; leave it out or set it to 0")
    feature, classes = CONSTANTS.get(student.kind) or CONSTANTS.get(student.detector) or CONSTANTS["others"]
    classes = (classes if scored else 0.0) if classes_weight is None else classes_weight
    return FeatureRichness(pairing(student, teacher, strides, missing), feature if feature_weight is None else feature_weight, classes)
