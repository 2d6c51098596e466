"""GFL: dense, with scores that are also the boxes' quality, and the sides of boxes as distributions of distances.

Li et al., "Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection", NeurIPS 2020,
https://arxiv.org/abs/2006.04388. As the authors train and decide, in MMDetection. Departures: the anchors' side, the farthest distance,
the pyramid's strides and the heads' depth are options; the heads' groups have 8 channels, which at 256 channels gives the paper's 32
groups.

Its own thresholds in `export` are score_threshold 0.05, iou_threshold 0.6, candidates 1000, max_detections 100.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torchvision.ops import generalized_box_iou_loss

from deploy.contract import BoxCode
from stages.detectors import Detector, Graph, GraphOptions
from stages.detectors.backbones.deformable import Deformable
from stages.detectors.backbones.options import Backbone, BackboneNorm, BackboneWeights, BackboneWidth, DeformableStages, DeformableVersion
from stages.detectors.backbones.pretrained import NoWeights, load_torchvision, refuse_both
from stages.detectors.backbones.pyramid import PyramidBackbone
from stages.detectors.boxes.nms import pairwise_iou
from stages.detectors.dense.assignment import positives
from stages.detectors.dense.detector import DenseDetector, SelectiveGraph
from stages.detectors.dense.model import FRESH_LAYERS, OneStageModel, Squares, TowersHead
from stages.detectors.dense.options import AnchorScale, Extra, FileWeights, FpnChannels, HeadConvs, Nearest, Strides
from stages.detectors.dense.zoo import TOWERS, group_settings, predicting, pyramid_settings, square_settings
from stages.detectors.zoo.layout import ZooLayout
from stages.detectors.zoo.settings import ZooSetting
from stages.processes import mean_over_processes, num_processes

_BOX_WEIGHT, _DISTRIBUTION_WEIGHT = 2.0, 0.25
_SHORT_OF_THE_END = 0.1
"""A distance that is learned is at least this much less than the farthest, so that it lies between two bins."""


class _Head(TowersHead):
    def __init__(self, channels: int, num_classes: int, num_convs: int, reach: int, num_levels: int) -> None:
        super().__init__(channels, num_classes, num_convs, codes=4 * (reach + 1), num_scales=num_levels)
        self.reach = reach

    def after(self, classes: Sequence[Tensor], boxes: Sequence[Tensor], convs: int) -> dict[str, Tensor]:
        head = super().after(classes, boxes, convs)
        return {"cls_logits": head["cls_logits"], "bbox_distribution": head["bbox_regression"].unflatten(2, (4, self.reach + 1))}


class GflDetector(DenseDetector):
    """See `build`; the bins of a side (left, top, right, bottom) are distances of 0, 1, 2 and so on strides from the anchor's center."""

    def __init__(self, model: OneStageModel, strides: tuple[int, ...], nearest: int) -> None:
        super().__init__(model, strides)
        self.nearest = nearest
        self.anchor_scale = model.anchor_generator.scale
        assert isinstance(model.head, _Head)
        self.head_shape = replace(self.head_shape, bins=model.head.reach + 1)

    def losses(self, rows: list[dict[str, Tensor]], head: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]) -> dict[str, Tensor]:
        """See DenseDetector.losses; boxes count by the highest class probability of their positions."""
        found = positives(rows, anchors[0], sizes, self.nearest)
        logits, distributions = head["cls_logits"], head["bbox_distribution"][found.where]
        boxes = self.decode(distributions, found.anchors)
        quality = pairwise_iou(boxes.detach()[:, None], found.boxes[:, None]).flatten()
        count = mean_over_processes(torch.tensor(float(found.count), device=logits.device))
        certainty = logits.detach()[found.where].sigmoid().amax(dim=-1)
        weight = mean_over_processes(certainty.sum()).clamp(min=1 / num_processes())
        apart = generalized_box_iou_loss(boxes, found.boxes)
        off = distribution_loss(distributions, self._distances(found.anchors, found.boxes)).mean(dim=1)
        return {
            "classification": quality_focal_loss(logits, found.classes(logits.shape[-1], quality * found.scores)).sum() / count,
            "bbox_regression": _BOX_WEIGHT * (apart * certainty).sum() / weight,
            "bbox_distribution": _DISTRIBUTION_WEIGHT * (off * certainty).sum() / weight,
        }

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See DenseDetector.decode; a distance is the mean of its distribution."""
        center, stride = self._places(anchors)
        bins = torch.arange(deltas.shape[-1], dtype=deltas.dtype, device=deltas.device)
        reach = (deltas.softmax(dim=-1) * bins).sum(dim=-1) * stride
        return torch.cat((center - reach[..., :2], center + reach[..., 2:]), dim=-1)

    def _distances(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """From the anchors' centers to the boxes' sides, in strides, [N, 4]."""
        center, stride = self._places(anchors)
        return torch.cat((center - boxes[:, :2], boxes[:, 2:] - center), dim=1) / stride

    def _places(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The anchors' centers [..., 2] in px and the strides of their levels [..., 1]."""
        return (anchors[..., :2] + anchors[..., 2:]) / 2, (anchors[..., 2:3] - anchors[..., :1]) / self.anchor_scale

    @property
    def box_code(self) -> BoxCode:
        """See DenseDetector.box_code."""
        unit = 1 / self.anchor_scale
        return BoxCode(kind="sides", scale=(-unit, -unit, unit, unit))

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return SelectiveGraph(self, options)


def quality_focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy with the wanted probabilities, times the squared distance from them; of the arguments' shape."""
    return binary_cross_entropy_with_logits(logits, wanted, reduction="none") * (wanted - logits.sigmoid()).pow(2)


def distribution_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Cross entropy with the two bins around each distance, each weighted by how near it is.

    Args:
        logits: [N, 4, bins].
        distances: [N, 4] in bins; those outside count as the nearest that is inside.

    Returns:
        [N, 4]
    """
    inside = distances.clamp(0, logits.shape[-1] - 1 - _SHORT_OF_THE_END)
    below = inside.long()
    by_bin = logits.transpose(1, 2)
    up = inside - below
    return (1 - up) * cross_entropy(by_bin, below, reduction="none") + up * cross_entropy(by_bin, below + 1, reduction="none")


TINY = {"backbone": "resnet10", "width": 8, "fpn_channels": 32, "strides": (8, 16, 32), "head_convs": 1, "anchor_scale": 4.0, "reach": 8}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    backbone: Backbone = "resnet50",
    width: BackboneWidth = 64,
    backbone_weights: BackboneWeights = None,
    norm: BackboneNorm = None,
    deformable: DeformableStages = (),
    deformable_version: DeformableVersion = 1,
    fpn_channels: FpnChannels = 256,
    strides: Strides = (8, 16, 32, 64, 128),
    extra: Extra = "p6p7",
    head_convs: HeadConvs = 4,
    anchor_scale: AnchorScale = 8.0,
    nearest: Nearest = 9,
    reach: Annotated[int, Field(ge=2, le=32)] = 16,
    weights: FileWeights = None,
) -> Detector:
    """A GFL detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        reach: the farthest side of a box that a position predicts, in strides; each side is a distribution over this and all smaller whole
            distances.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    refuse_both(weights, backbone_weights)
    deformed = Deformable(deformable, deformable_version)
    pyramid = PyramidBackbone(backbone, width, norm, fpn_channels, strides, backbone_weights, extra, extra_relu=False, deformable=deformed)
    model = OneStageModel(pyramid, _Head(fpn_channels, num_classes, head_convs, reach, len(strides)), Squares(strides, anchor_scale))
    if weights is not None:
        load_torchvision(model, weights, NoWeights, FRESH_LAYERS, _zoo(fpn_channels, extra, anchor_scale, reach))
    return GflDetector(model, strides, nearest)


def _zoo(channels: int, extra: Extra, anchor_scale: float, reach: int) -> ZooLayout:
    farthest = ZooSetting("bbox_head.reg_max", (reach,), absent=16, remedy="set reach to this")
    names = (*TOWERS, *predicting(cls_logits="gfl_cls", bbox_reg="gfl_reg"))
    return ZooLayout(("GFL",), names, (*pyramid_settings(extra), *group_settings(channels), *square_settings(anchor_scale), farthest))
