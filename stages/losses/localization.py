"""Localization distillation: what the teacher knows of where a box's sides are.

Zheng et al., "Localization Distillation for Dense Object Detection", CVPR 2022, https://arxiv.org/abs/2102.12252, for heads that predict
distributions of sides; its constants are in HikariTJU/LD, configs/ld/ld_r50_gflv1_r101_fpn_coco_1x.py. Other heads follow Yang et al.,
"Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection", ICCV 2023, https://arxiv.org/abs/2308.14286
(BCKD); TinyTigerPan/BCKD, mmdet/models/losses/kd_loss.py and mmdet/models/dense_heads/ld_head.py.

For dense detectors with equal numbers of boxes per position.

Constants: temperature 10 for sides and 2 for classes, regions near objects from a DIoU of 0.25; sides weigh 1/4
at places that learn an object and 1/16 near one.

Departures: objects are assigned to places as in ATSS, whatever the student's own rule is. LD: its sums over places, which belong to two
images per process, are divided by the number of images and multiplied by two; the region around objects is the paper's, by DIoU, and
weighs the same everywhere, where the code weights an earlier region by IoU; the imitation of features is a loss of its own elsewhere.
BCKD: sums are divided by the number of places that learn an object, for a level without any, too.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div
from torchvision.ops import generalized_box_iou_loss

from deploy.errors import ConfigError
from stages.detectors import Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.losses.features.levels import LevelPair
from stages.losses.features.options import Strides
from stages.losses.heads.regions import learned, near_objects
from stages.losses.heads.rows import LevelRows, paired, rows
from stages.processes import shared_count

READS = ("head", "decoded", "targets")
INVARIANT_TO = ("batch",)

_IMAGES = 2
"""Images per process for which LD's sums over places are published."""

_PER_SIDE, _PER_SIDE_NEAR = 4.0, 16.0
"""What LD's sums over sides are divided by, at places that learn an object and at those near one."""


class SideDistributions(Loss):
    """LD: the sides' distributions, softened, at places that learn an object and at places near one; the classes at the former."""

    def __init__(
        self, levels: tuple[LevelPair, ...], strides: tuple[int, ...], temperature: float, class_temperature: float, near: float
    ) -> None:
        super().__init__()
        self.levels, self.strides = levels, strides
        self.temperature, self.class_temperature, self.near = temperature, class_temperature, near
        self.weights = {"boxes": 0.25, "near": 0.25, "classes": 10.0}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "boxes", "near" and "classes" of each level."""
        found = rows(student, teacher, self.levels)
        sizes, per_image = [len(level.anchors) for level in found], _IMAGES / len(targets)
        learning = learned(found, targets).where.split(sizes, dim=1)
        near = near_objects(found, targets, self.near).split(sizes, dim=1)
        counts = shared_count(torch.stack([one.sum() for one in learning]))
        terms: dict[str, Tensor] = {}
        for index, (level, pair) in enumerate(zip(found, self.levels, strict=True)):
            own, other = (side.head["box_distributions"][at].float() for side, at in ((student, pair.own), (teacher, pair.other)))
            apart = softened(own, other.detach(), self.temperature).sum(dim=-1)  # over four sides
            certain = level.logits.detach().sigmoid().amax(dim=-1)
            classes = softened(level.logits, level.other_logits, self.class_temperature)
            stride = self.strides[index]
            terms[f"boxes/{stride}"] = (apart * certain * learning[index]).sum() * per_image / _PER_SIDE
            terms[f"near/{stride}"] = (apart * near[index]).sum() * per_image / _PER_SIDE_NEAR
            terms[f"classes/{stride}"] = (classes * learning[index]).sum() / counts[index]
        return terms


class WeightedBoxes(Loss):
    """BCKD: classes by cross entropy and boxes by GIoU, both weighted by how far apart the networks' class probabilities are."""

    def __init__(self, levels: tuple[LevelPair, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.levels, self.strides = levels, strides
        self.weights = {"classes": 1.0, "boxes": 4.0}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "classes" and "boxes" of each level."""
        found = rows(student, teacher, self.levels)
        count = learned(found, targets).count
        terms: dict[str, Tensor] = {}
        for stride, level in zip(self.strides, found, strict=True):
            classes, boxes = weighted_by_difference(level)
            terms |= {f"classes/{stride}": classes / count, f"boxes/{stride}": boxes / count}
        return terms


def softened(own: Tensor, other: Tensor, temperature: float) -> Tensor:
    """KL divergence of distributions over the last axis, from logits over a temperature: mean over that axis, times its square."""
    with torch.autocast(own.device.type, enabled=False):
        wanted = (other / temperature).softmax(dim=-1)
        return kl_div((own / temperature).log_softmax(dim=-1), wanted, reduction="none").mean(dim=-1) * temperature**2


def weighted_by_difference(level: LevelRows) -> tuple[Tensor, Tensor]:
    """BCKD's sums over all places of a level: of classes and of boxes."""
    with torch.autocast(level.logits.device.type, enabled=False):
        wanted = level.other_logits.sigmoid()
        difference = (wanted - level.logits.sigmoid()).abs()
        classes = binary_cross_entropy_with_logits(level.logits, wanted, reduction="none") * difference
        apart = generalized_box_iou_loss(level.boxes, level.other_boxes, reduction="none")
        return classes.sum(), (apart * difference.detach().amax(dim=-1)).sum()


def build(
    student: NetworkSide,
    teacher: NetworkSide,
    *,
    boxes: Literal["auto", "distributions", "giou"] = "auto",
    temperature: Annotated[float, Field(gt=0)] = 10.0,
    class_temperature: Annotated[float, Field(gt=0)] = 2.0,
    near: Annotated[float, Field(gt=0, lt=1)] = 0.25,
    strides: Strides = None,
) -> Loss:
    """LD's three terms for heads with distributions, BCKD's two for others.

    Args:
        boxes: `distributions`: LD; `giou`: BCKD; `auto`: LD if both heads predict distributions over the same distances.
        temperature: temperature of the sides' distributions, for LD.
        class_temperature: temperature of the classes, for LD.
        near: for LD, a place that learns no object is compared, too, if its DIoU with one is at least this share of the overlap that
            learning it takes.

    Raises:
        ConfigError: different kinds of heads, or numbers of boxes per position; distributions that the heads do not have.
    """
    levels = paired("localization", student, teacher, strides)
    learning = tuple(student.strides[level.own] for level in levels)
    same = student.head.bins == teacher.head.bins > 0
    if boxes == "distributions" and not same:
        given = f"the student's sides have {student.head.bins} bins, the teacher's {teacher.head.bins}"
        raise ConfigError(f"distill.losses: localization: boxes: distributions requires heads with equal bins, but {given}; choose giou")
    if boxes == "giou" or not same:
        return WeightedBoxes(levels, learning)
    return SideDistributions(levels, learning, temperature, class_temperature, near)
