"""FCOS on torchvision's modules: dense, without anchors.

Tian et al., "FCOS: A Simple and Strong Anchor-free Object Detector", TPAMI 2022, https://arxiv.org/abs/2006.09214.
Departures in addition to torchvision's own (GIoU loss, center sampling of radius 1.5 strides, centerness in the regression branch):
the strides of the pyramid and the size of the objects per level (`range_scale`) are options; the heads' groups have 8 channels, which
at 256 channels gives torchvision's 32 groups; the regression's bias starts positive: started at 0, as in torchvision, its ReLU left
entire sides of the boxes dead in short trainings from scratch. Versions `mmdet` and `mmdet_normbbox` predict and decide as MMDetection,
whose weights they take: positions are the middles of their squares, levels scale their distances by numbers that are learned, and a
score is the product of class probability and centerness; they learn as torchvision's does.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOS_ResNet50_FPN_Weights, FCOSClassificationHead, FCOSHead, FCOSRegressionHead

from deploy.contract import BoxCode
from stages.detectors import Detector, Graph, GraphOptions
from stages.detectors.backbones.catalog import group_norm
from stages.detectors.backbones.deformable import Deformable
from stages.detectors.backbones.options import (
    Backbone,
    BackboneNorm,
    BackboneWeights,
    BackboneWidth,
    DeformableStages,
    DeformableVersion,
    Weights,
)
from stages.detectors.backbones.pretrained import NoWeights, load_torchvision, refuse_both
from stages.detectors.backbones.pyramid import PyramidBackbone
from stages.detectors.dense import fcos_zoo
from stages.detectors.dense.detector import CLASS_LAYERS, DenseDetector, SelectiveGraph
from stages.detectors.dense.exact_anchors import ExactAnchors
from stages.detectors.dense.options import Extra, FpnChannels, HeadConvs, Strides
from stages.processes import rescale

_FIRST_REACH = 2.0
"""Distance that an untrained head predicts from a position to each side of its box, in squares of the level; levels take up to 8."""


class _Head(FCOSHead):
    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        losses = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        num_positives = int(torch.stack([(matched >= 0).sum() for matched in matched_idxs]).sum())
        return rescale(losses, num_positives, head_outputs["cls_logits"].device)


class _ZooHead(_Head):
    def __init__(self, towers: fcos_zoo.FcosTowers, channels: int, num_classes: int) -> None:
        super().__init__(channels, 1, num_classes, 1)
        del self.classification_head, self.regression_head
        self.towers = towers

    def forward(self, x: Sequence[Tensor]) -> dict[str, Tensor]:
        head: dict[str, Tensor] = self.towers(x)
        return head


class FcosDetector(DenseDetector):
    """See `build`; an anchor is the square of its position."""

    model: FCOS

    def losses(self, rows: list[dict[str, Tensor]], head: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]) -> dict[str, Tensor]:
        """See DenseDetector.losses."""
        losses: dict[str, Tensor] = self.model.compute_loss(rows, head, anchors, sizes)
        return losses

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See DenseDetector.decode."""
        size = anchors[..., 2:] - anchors[..., :2]
        center = (anchors[..., :2] + anchors[..., 2:]) / 2
        return torch.cat((center - deltas[..., :2] * size, center + deltas[..., 2:] * size), dim=-1)

    @property
    def box_code(self) -> BoxCode:
        """See DenseDetector.box_code."""
        return BoxCode(kind="sides", scale=(-1, -1, 1, 1))

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return SelectiveGraph(self, options) if isinstance(self.model.head, _ZooHead) else super().graph(options)


TINY = {"backbone": "resnet10", "width": 8, "fpn_channels": 32, "strides": (8, 16, 32), "head_convs": 1, "range_scale": 0.5}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    version: Literal["torchvision", "mmdet", "mmdet_normbbox"] = "torchvision",
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
    range_scale: Annotated[float, Field(gt=0, le=4)] = 1.0,
    weights: Weights = None,
) -> Detector:
    """An FCOS detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        version: `mmdet` and `mmdet_normbbox` are MMDetection's forms, which its weights need: in the first, distances are exponentials and
            centerness is predicted beside the classes; the second is `center-normbbox-centeronreg-giou` in the names of files.
        range_scale: scales the object size per level: a level of stride s takes objects that extend 4 to 8 times s * range_scale px from
            their center; at the finest level, s * range_scale must be an even number.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    refuse_both(weights, backbone_weights)
    if (strides[0] * range_scale) % 2:
        raise ValueError(
            f"range_scale {range_scale}: strides[0] * range_scale, here {strides[0] * range_scale:g} px, must be an even number"
        )
    deformed = Deformable(deformable, deformable_version)
    if version != "torchvision":
        pyramid = PyramidBackbone(backbone, width, norm, fpn_channels, strides, backbone_weights, extra, deformable=deformed)
        return _zoo_detector(pyramid, num_classes, head_convs, version, extra, range_scale, weights)
    normalization = "frozen" if norm is None and weights is not None and backbone == "resnet50" else norm
    pyramid = PyramidBackbone(backbone, width, normalization, fpn_channels, strides, backbone_weights, extra, deformable=deformed)
    head = _head(fpn_channels, num_classes, head_convs)
    anchors = AnchorGenerator(tuple((round(stride * range_scale),) for stride in strides), ((1.0,),) * len(strides))
    model = FCOS(pyramid, num_classes, anchor_generator=anchors, head=head, center_sampling_radius=1.5 / range_scale)
    if weights is not None:
        load_torchvision(model, weights, FCOS_ResNet50_FPN_Weights, CLASS_LAYERS)
    return FcosDetector(model, strides)


def _head(channels: int, num_classes: int, num_convs: int) -> _Head:
    head = _Head(channels, 1, num_classes, num_convs)
    head.classification_head = FCOSClassificationHead(channels, 1, num_classes, num_convs, norm_layer=group_norm)
    head.regression_head = FCOSRegressionHead(channels, 1, num_convs, norm_layer=group_norm)
    first_reach = head.regression_head.bbox_reg.bias
    assert first_reach is not None
    nn.init.constant_(first_reach, _FIRST_REACH)
    return head


def _zoo_detector(
    pyramid: PyramidBackbone, num_classes: int, num_convs: int, version: str, extra: Extra, range_scale: float, weights: str | None
) -> FcosDetector:
    """As MMDetection has it.

    Raises:
        ValueError: levels take objects of other sizes.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    if range_scale != 1:
        raise ValueError(f"range_scale {range_scale}: version {version} has 1; use version torchvision for others")
    channels, strides = pyramid.out_channels, pyramid.strides
    normalized = version == fcos_zoo.NORMALIZED
    towers = fcos_zoo.FcosTowers(channels, num_classes, num_convs, strides, normalized=normalized, first_reach=_FIRST_REACH)
    anchors = ExactAnchors(strides, [(float(stride),) for stride in strides], (1.0,), offset=0.5)
    model = FCOS(pyramid, num_classes, anchor_generator=anchors, head=_ZooHead(towers, channels, num_classes))
    if weights is not None:
        load_torchvision(model, weights, NoWeights, fcos_zoo.CLASS_LAYERS, fcos_zoo.fcos_layout(version, channels, extra))
    return FcosDetector(model, strides)
