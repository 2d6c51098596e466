"""The teacher's queries through both decoders: what detectors that predict sets can be compared on.

After Wang et al., "KD-DETR: Knowledge Distillation for Detection Transformer with Consistent Distillation Points Sampling", CVPR 2024,
https://arxiv.org/abs/2211.08071. Its idea only: the authors' code has no license and was not read, and the paper's weights of terms were
not available, so they are those of DETR's own losses (Carion et al., ECCV 2020): 1, 5 and 2.

For detectors that predict sets.

Constants: weights 1, 5 and 2 of classes, distances and GIoU, those of DETR.

Departures: queries are the teacher's own only (the paper's specific sampling), without the random ones that it adds at first (its general
sampling); only the last decoder layer is compared; a linear layer maps the queries if the decoders have different widths; the error of a
query is weighted by the teacher's certainty of it, relative to that of all queries of the batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import generalized_box_iou_loss

from deploy.errors import ConfigError
from stages.detectors import Outputs, Queries, Target
from stages.losses import Loss, NetworkSide
from stages.processes import mean_over_processes

READS = ("decoder_queries",)
INVARIANT_TO = ("batch",)


class SharedQueries(Loss):
    """See `build`."""

    def __init__(self, widths: tuple[int, int]) -> None:
        super().__init__()
        own, other = widths
        self.adapter = nn.Linear(other, own) if own != other else nn.Identity()
        self.weights = {"classes": 1.0, "boxes": 5.0, "overlap": 2.0}

    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The terms "classes", "boxes" and "overlap", means over queries weighted by the teacher's certainty."""
        with torch.no_grad():
            other = teacher.decode_queries()
        features, places = other.queries.features.float(), other.queries.boxes.float()
        own = student.decode_queries(Queries(self.adapter(features), places))
        answers = own.class_logits.float(), own.boxes.float(), other.class_logits.float(), other.boxes.float()
        with torch.autocast(features.device.type, enabled=False):
            return errors(*answers, student.size)


def errors(own_logits: Tensor, own_boxes: Tensor, logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """The terms, from class logits [B, Q, K] and boxes [B, Q, 4] in px of both; `size` is the images' height and width in px.

    A query counts by the teacher's highest class probability. Classes are summed over them; the sides of boxes, as fractions of the image.
    """
    wanted = logits.sigmoid()
    certain = wanted.amax(dim=-1)
    certain = certain / mean_over_processes(certain.sum()).clamp(min=1e-6)
    extent = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    classes = binary_cross_entropy_with_logits(own_logits, wanted, reduction="none").sum(dim=-1)
    apart = ((own_boxes - boxes) / extent).abs().sum(dim=-1)
    overlap = generalized_box_iou_loss(own_boxes, boxes, reduction="none")
    return {name: (error * certain).sum() for name, error in (("classes", classes), ("boxes", apart), ("overlap", overlap))}


def build(student: NetworkSide, teacher: NetworkSide) -> Loss:
    """Both decoders' answers to the teacher's queries.

    Raises:
        ConfigError: different numbers of classes.
    """
    if student.num_classes != teacher.num_classes:
        classes = f"the student has {student.num_classes}, the teacher {teacher.num_classes}"
        raise ConfigError(f"distill.losses: shared_queries compares the same classes, but {classes}; choose a different loss")
    return SharedQueries((student.head.channels, teacher.head.channels))
