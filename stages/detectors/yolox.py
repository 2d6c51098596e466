"""YOLOX: dense, without anchors, on a backbone of its own; positions learn the objects that they predict most cheaply.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021", https://arxiv.org/abs/2107.08430. As MMDetection trains and decides. Departures: losses
are divided by the mean number of learning positions over all processes; boxes are clipped to the image once overlaps are suppressed, and
boxes outside it drop out before; sizes other than the six published ones are options; mosaics are an augmentation in `train`, which
nothing switches off for the last epochs, and there is no mixup.

Published weights expect 0 to 255, blue first, at the top left: in `data.preprocessing` height and width alike, resize shortest_edge,
color bgr, mean [0, 0, 0], std [0.00392156862745098, 0.00392156862745098, 0.00392156862745098]. Its own thresholds in `export` are
score_threshold 0.01, iou_threshold 0.65.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot, softplus

from deploy.contract import BoxCode
from stages.detectors import Detector, Graph, GraphOptions, Outputs
from stages.detectors.backbones.csp_darknet import STRIDES, DarknetPyramid, DarknetShape
from stages.detectors.backbones.pretrained import NoWeights, load_torchvision
from stages.detectors.boxes.coding import clip
from stages.detectors.boxes.nms import best, pairwise_iou, select
from stages.detectors.dense.assignment import gathered
from stages.detectors.dense.cheapest import cheapest
from stages.detectors.dense.decoupled_head import DecoupledHead, fresh_layers
from stages.detectors.dense.detector import DenseDetector, SelectiveGraph
from stages.detectors.dense.model import OneStageModel, Squares
from stages.detectors.dense.options import FileWeights
from stages.detectors.dense.yolox_zoo import yolox_layout
from stages.processes import shared_count

_SHAPES = {
    "nano": DarknetShape(0.33, 0.25, depthwise=True),
    "tiny": DarknetShape(0.33, 0.375),
    "s": DarknetShape(0.33, 0.5),
    "m": DarknetShape(0.67, 0.75),
    "l": DarknetShape(1.0, 1.0),
    "x": DarknetShape(1.33, 1.25),
}
_BOX_WEIGHT = 5.0
_LEAST_OVERLAP, _LEAST_EXTENT = 1e-16, 1e-8


class YoloxDetector(DenseDetector):
    """See `build`; an anchor is the square around a cell's top left corner, a code the box's center and the logarithm of its size."""

    def __init__(self, model: OneStageModel, l1_share: float) -> None:
        super().__init__(model, STRIDES)
        self.l1_share = l1_share
        self.done = 0.0

    def progress(self, share: float) -> None:
        """See Detector.progress: codes are learned directly, too, in the last part."""
        self.done = share

    def losses(self, rows: list[dict[str, Tensor]], head: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]) -> dict[str, Tensor]:
        """See DenseDetector.losses."""
        logits, codes, present = head["cls_logits"], head["bbox_regression"], head["objectness"][..., 0]
        boxes = self.decode(codes, anchors[0])
        likely = (logits.detach().sigmoid() * present.detach().sigmoid()[..., None]).sqrt()
        each = zip(boxes.detach(), likely, rows, strict=True)
        found = [cheapest(anchors[0], mine, probable, row["boxes"], row["labels"]) for mine, probable, row in each]
        learning = gathered(rows, anchors[0], [one.objects for one in found])
        quality = torch.cat([one.overlaps[one.objects >= 0] for one in found])
        wanted = one_hot(learning.labels, logits.shape[-1]) * (quality * learning.scores)[:, None]
        objects = learning.where.float().masked_scatter(learning.where, learning.scores)
        shared = pairwise_iou(boxes[learning.where][:, None], learning.boxes[:, None]).flatten().clamp(min=_LEAST_OVERLAP)
        losses = {
            "classification": binary_cross_entropy_with_logits(logits[learning.where], wanted, reduction="sum"),
            "bbox_regression": _BOX_WEIGHT * (1 - shared.square()).sum(),
            "objectness": binary_cross_entropy_with_logits(present, objects, reduction="sum"),
        }
        if self.done >= 1 - self.l1_share:
            losses["bbox_l1"] = (codes[learning.where] - self.encode(learning.boxes, learning.anchors)).abs().sum()
        count = shared_count(torch.tensor(len(learning.labels), device=logits.device))
        return {name: loss / count for name, loss in losses.items()}

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See DenseDetector.decode."""
        stride = anchors[..., 2:] - anchors[..., :2]
        middle, half = deltas[..., :2] * stride + (anchors[..., :2] + anchors[..., 2:]) / 2, deltas[..., 2:].exp() * stride / 2
        return torch.cat((middle - half, middle + half), dim=-1)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """The codes [N, 4] that boxes [N, 4] are decoded from."""
        stride, corner = anchors[:, 2:] - anchors[:, :2], (anchors[:, :2] + anchors[:, 2:]) / 2
        middle, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        return torch.cat(((middle - corner) / stride, (extent / stride + _LEAST_EXTENT).log()), dim=1)

    @property
    def box_code(self) -> BoxCode:
        """See DenseDetector.box_code."""
        return BoxCode(kind="center")

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return YoloxGraph(self, options)

    def _outputs(
        self, features: Sequence[Tensor], head: Mapping[str, Tensor], losses: Mapping[str, Tensor], size: tuple[int, int]
    ) -> Outputs:
        """Its classes are those of an object, if there is one, and say nothing elsewhere; what losses read has both in one."""
        told = {"cls_logits": joint(head["cls_logits"], head["objectness"]), "bbox_regression": head["bbox_regression"]}
        return super()._outputs(features, told, losses, size)


def joint(classes: Tensor, present: Tensor) -> Tensor:
    """The logits [B, N, K] in float32 of the products of two probabilities, from those of classes [B, N, K] and of objects [B, N, 1]."""
    classes, present = classes.float(), present.float()
    return -torch.logaddexp(-present, softplus(-present) - classes)


class YoloxGraph(SelectiveGraph):
    """As SelectiveGraph, but a position has one class, its likeliest; and overlaps are those of boxes that are not clipped."""

    scoring = "likeliest"

    def level(self, head: Mapping[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See DenseGraph.level."""
        logits, labels = head["cls_logits"].max(dim=-1)
        scores = torch.sigmoid(logits) * torch.sigmoid(head["objectness"][..., 0])
        scores, place = best(scores, min(self.options.candidates, scores.shape[1]))
        return self.boxes(head, anchors, place), self.above_threshold(scores), torch.gather(labels, 1, place)

    def selected(self, boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See DenseGraph.selected."""
        scores = self.judged(clip(boxes, *size), scores)
        limits = self.options.iou_threshold, self.options.max_detections
        boxes, scores, labels, converged = select(boxes, scores, labels, *limits, agnostic=self.options.agnostic)
        return clip(boxes, *size), scores, labels, converged


TINY = {"depth": 0.1, "width": 0.125, "l1_share": 0.5}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    size: Literal["nano", "tiny", "s", "m", "l", "x"] = "s",
    depth: Annotated[float, Field(gt=0, le=4)] | None = None,
    width: Annotated[float, Field(ge=0.0625, le=4)] | None = None,
    l1_share: Annotated[float, Field(ge=0, le=1)] = 0.05,
    weights: FileWeights = None,
) -> Detector:
    """A YOLOX detector with strides 8, 16 and 32.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        size: the published network; nano has separable convolutions.
        depth: factor on the numbers of blocks; null: the size's.
        width: factor on the numbers of channels; null: the size's. The pyramid has 256 times this.
        l1_share: the last part of the training, in which the distance of the boxes' codes is one more loss; 0: never.

    Raises:
        ArtifactError: weights that are not available or belong to a different detector.
    """
    own = _SHAPES[size]
    shape = DarknetShape(own.depth if depth is None else depth, own.width if width is None else width, own.depthwise)
    pyramid = DarknetPyramid(shape)
    head = DecoupledHead(pyramid.out_channels, num_classes, len(STRIDES), shape)
    model = OneStageModel(pyramid, head, Squares(STRIDES, 1.0))
    if weights is not None:
        load_torchvision(model, weights, NoWeights, fresh_layers(len(STRIDES)), yolox_layout(shape))
    return YoloxDetector(model, l1_share)
