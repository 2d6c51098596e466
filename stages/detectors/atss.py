"""ATSS: dense, with one square anchor per position and a threshold of its own for every object.

Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection", CVPR 2020,
https://arxiv.org/abs/1912.02424. As MMDetection trains and decides: a score is the product of class probability and centerness, not its
square root, and candidates are chosen by class alone. Departures: the anchors' side, the pyramid's strides and the heads' depth are
options; the heads' groups have 8 channels, which at 256 channels gives the paper's 32 groups.

Its own thresholds in `export` are score_threshold 0.05, iou_threshold 0.6, candidates 1000, max_detections 100.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from deploy.contract import BoxCode
from stages.detectors import Detector, Graph, GraphOptions
from stages.detectors.backbones.deformable import Deformable
from stages.detectors.backbones.options import Backbone, BackboneNorm, BackboneWeights, BackboneWidth, DeformableStages, DeformableVersion
from stages.detectors.backbones.pretrained import NoWeights, load_torchvision, refuse_both
from stages.detectors.backbones.pyramid import PyramidBackbone
from stages.detectors.boxes import coding
from stages.detectors.dense.assignment import positives
from stages.detectors.dense.detector import DenseDetector, SelectiveGraph
from stages.detectors.dense.model import FRESH_LAYERS, OneStageModel, Squares, TowersHead
from stages.detectors.dense.options import AnchorScale, Extra, FileWeights, FpnChannels, HeadConvs, Nearest, Strides
from stages.detectors.dense.zoo import TOWERS, group_settings, predicting, pyramid_settings, square_settings
from stages.detectors.zoo.layout import ZooLayout
from stages.detectors.zoo.settings import ZooSetting
from stages.processes import mean_over_processes, num_processes

_CODING = (10.0, 10.0, 5.0, 5.0)
_BOX_WEIGHT = 2.0
_LEAST_GROWTH = torch.tensor([-torch.inf, -torch.inf, -coding.MAX_GROWTH * _CODING[2], -coding.MAX_GROWTH * _CODING[3]])


class AtssDetector(DenseDetector):
    """See `build`."""

    def __init__(self, model: OneStageModel, strides: tuple[int, ...], nearest: int) -> None:
        super().__init__(model, strides)
        self.nearest = nearest

    def losses(self, rows: list[dict[str, Tensor]], head: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]) -> dict[str, Tensor]:
        """See DenseDetector.losses; boxes count by their centerness."""
        found = positives(rows, anchors[0], sizes, self.nearest)
        logits, deltas, quality = head["cls_logits"], head["bbox_regression"][found.where], head["bbox_ctrness"][found.where][:, 0]
        wanted = centerness(found.anchors, found.boxes)
        count = mean_over_processes(torch.tensor(float(found.count), device=logits.device))
        weight = mean_over_processes(wanted.sum()).clamp(min=1 / num_processes())
        apart = generalized_box_iou_loss(self.decode(deltas, found.anchors), found.boxes)
        return {
            "classification": sigmoid_focal_loss(logits, found.classes(logits.shape[-1]), reduction="sum") / count,
            "bbox_regression": _BOX_WEIGHT * (apart * wanted).sum() / weight,
            "bbox_ctrness": binary_cross_entropy_with_logits(quality, wanted, reduction="sum") / count,
        }

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See DenseDetector.decode; a box shrinks no more than it grows."""
        return coding.decode(torch.maximum(deltas, _LEAST_GROWTH.to(deltas.device)), anchors, _CODING)

    @property
    def box_code(self) -> BoxCode:
        """See DenseDetector.box_code."""
        return BoxCode(kind="center", scale=tuple(1 / one for one in _CODING), least=-coding.MAX_GROWTH, most=coding.MAX_GROWTH)

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return SelectiveGraph(self, options)


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """How central the anchors' centers are in boxes around them, [N] from 0, at an edge, to 1."""
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, after = center - boxes[:, :2], boxes[:, 2:] - center
    return (torch.minimum(before, after) / torch.maximum(before, after)).prod(dim=1).sqrt()


TINY = {"backbone": "resnet10", "width": 8, "fpn_channels": 32, "strides": (8, 16, 32), "head_convs": 1, "anchor_scale": 4.0}
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
    weights: FileWeights = None,
) -> Detector:
    """An ATSS detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    refuse_both(weights, backbone_weights)
    deformed = Deformable(deformable, deformable_version)
    pyramid = PyramidBackbone(backbone, width, norm, fpn_channels, strides, backbone_weights, extra, extra_relu=False, deformable=deformed)
    head = TowersHead(fpn_channels, num_classes, head_convs, quality=True, num_scales=len(strides))
    model = OneStageModel(pyramid, head, Squares(strides, anchor_scale))
    if weights is not None:
        load_torchvision(model, weights, NoWeights, FRESH_LAYERS, _zoo(fpn_channels, extra, anchor_scale))
    return AtssDetector(model, strides, nearest)


def _zoo(channels: int, extra: Extra, anchor_scale: float) -> ZooLayout:
    names = (*TOWERS, *predicting(cls_logits="atss_cls", bbox_reg="atss_reg", bbox_ctrness="atss_centerness"))
    coding_of = ZooSetting("bbox_head.bbox_coder.target_stds", ([0.1, 0.1, 0.2, 0.2],))
    return ZooLayout(("ATSS",), names, (*pyramid_settings(extra), *group_settings(channels), *square_settings(anchor_scale), coding_of))
