"""RepPoints: dense, with nine points per object in place of a box, and features read where they are.

Yang et al., "RepPoints: Point Set Representation for Object Detection", ICCV 2019, https://arxiv.org/abs/1904.11490. As MMDetection
trains and decides, with boxes by moments. Departures: the objects' size per level, the pyramid's strides and the heads' depth are
options; losses are divided by the mean number of positives over all processes; an object that no box of first points overlaps is learned
by its first points alone, where MMDetection has every position that does not overlap it learn it; groups of normalization have 8 channels,
which at 256 channels gives the paper's 32 groups.

Its own thresholds in `export` are score_threshold 0.05, iou_threshold 0.5, candidates 1000, max_detections 100.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torchvision.ops import sigmoid_focal_loss

from stages.detectors import Detector, Graph, GraphOptions
from stages.detectors.backbones import catalog
from stages.detectors.backbones.deformable import Deformable
from stages.detectors.backbones.options import Backbone, BackboneNorm, BackboneWeights, BackboneWidth, DeformableStages, DeformableVersion
from stages.detectors.backbones.pretrained import NoWeights, load_torchvision, refuse_both
from stages.detectors.backbones.pyramid import PyramidBackbone
from stages.detectors.boxes.matching import IGNORED, MatchRule, assign
from stages.detectors.dense.assignment import Positives, gathered
from stages.detectors.dense.detector import DenseDetector, SelectiveGraph
from stages.detectors.dense.model import FRESH_LAYERS, OneStageModel, Squares
from stages.detectors.dense.options import Extra, FileWeights, FpnChannels, HeadConvs, Strides
from stages.detectors.dense.point_assignment import nearest_point
from stages.detectors.dense.points import PointsHead
from stages.detectors.dense.zoo import TOWERS, group_settings, pyramid_settings
from stages.detectors.zoo.layout import ZooLayout
from stages.detectors.zoo.settings import ZooSetting
from stages.processes import mean_over_processes

_RULE = MatchRule(object_from=0.5, background_below=0.4, claim=0.0)
"""Which positions learn an object in the end, by the boxes of their first points."""

_START_WEIGHT = 0.5
_LINEAR_FROM = 0.11
"""Error, in sides of a position's square, from which on a box's loss is linear."""


class RepPointsDetector(DenseDetector):
    """See `build`; a code is a box (x1, y1, x2, y2) in strides from the position's place."""

    def __init__(self, model: OneStageModel, strides: tuple[int, ...]) -> None:
        super().__init__(model, strides)
        self.scale = model.anchor_generator.scale

    def coded(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See DenseDetector.coded; "bbox_start" are the boxes of the first points."""
        points = self.model.head
        assert isinstance(points, PointsHead)
        names = {"points": "bbox_regression", "start": "bbox_start"}
        with torch.autocast(head["points"].device.type, enabled=False):
            boxes = {names[name]: points.boxes(head[name].float()) for name in names if name in head}
        return {"cls_logits": head["cls_logits"], **boxes}

    def losses(self, rows: list[dict[str, Tensor]], head: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]) -> dict[str, Tensor]:
        """See DenseDetector.losses; few positions learn the first points, more the last ones and classes, by where the first ones are."""
        squares, logits = anchors[0], head["cls_logits"]
        first, last = (self.decode(head[name], squares) for name in ("bbox_start", "bbox_regression"))
        nearest = gathered(rows, squares, [nearest_point(squares, self.scale, row["boxes"]) for row in rows])
        matched = [assign(boxes, row["boxes"], _RULE).objects for boxes, row in zip(first.detach(), rows, strict=True)]
        found = gathered(rows, squares, matched)
        learned = (torch.stack(matched) != IGNORED)[..., None]
        by_class = sigmoid_focal_loss(logits, found.classes(logits.shape[-1])) * learned
        count = _count(found, logits)
        return {
            "classification": by_class.sum() / count,
            "bbox_start": _START_WEIGHT * _distance(first, nearest) / _count(nearest, logits),
            "bbox_regression": _distance(last, found) / count,
        }

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See DenseDetector.decode."""
        place = (anchors[..., :2] + anchors[..., 2:]) / 2
        stride = (anchors[..., 2:3] - anchors[..., :1]) / self.scale
        return deltas * stride + torch.cat((place, place), dim=-1)

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return RepPointsGraph(self, options)


def _distance(boxes: Tensor, wanted: Positives) -> Tensor:
    """The loss of boxes [B, N, 4] of those positions that learn, in sides of their squares, summed."""
    side = wanted.anchors[:, 2:3] - wanted.anchors[:, :1]
    return smooth_l1_loss(boxes[wanted.where] / side, wanted.boxes / side, beta=_LINEAR_FROM, reduction="sum")


def _count(found: Positives, like: Tensor) -> Tensor:
    return mean_over_processes(torch.tensor(float(found.count), device=like.device))


class RepPointsGraph(SelectiveGraph):
    """As SelectiveGraph; the first points serve only training, once they have told where to read."""

    def raw(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """See DenseGraph.raw."""
        return {name: values for name, values in super().raw(features).items() if name != "start"}


_NAMES = (
    (r"bbox_head\.moment_transfer$", "head.moment"),
    (r"bbox_head\.reppoints_pts_init_conv\.", "head.start_conv."),
    (r"bbox_head\.reppoints_pts_init_out\.", "head.start_points."),
    (r"bbox_head\.reppoints_cls_conv\.", "head.cls_deform."),
    (r"bbox_head\.reppoints_cls_out\.", "head.cls_logits."),
    (r"bbox_head\.reppoints_pts_refine_conv\.", "head.reg_deform."),
    (r"bbox_head\.reppoints_pts_refine_out\.", "head.points."),
)

TINY = {"backbone": "resnet10", "width": 8, "fpn_channels": 32, "strides": (8, 16, 32), "head_convs": 1}
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
    extra: Extra = "p6p7_c5",
    head_convs: HeadConvs = 3,
    group_norm: bool = True,
    object_scale: Annotated[float, Field(ge=1, le=16)] = 4.0,
    weights: FileWeights = None,
) -> Detector:
    """A RepPoints detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        group_norm: whether the convolutions of the pyramid and of the heads are followed by group normalization.
        object_scale: size of the smallest objects of a level, in strides; the largest are twice as long.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    refuse_both(weights, backbone_weights)
    layers = catalog.group_norm if group_norm else None
    deformed = Deformable(deformable, deformable_version)
    pyramid = PyramidBackbone(
        backbone, width, norm, fpn_channels, strides, backbone_weights, extra, layers, extra_relu=False, deformable=deformed
    )
    head = PointsHead(fpn_channels, num_classes, head_convs, norm=group_norm)
    model = OneStageModel(pyramid, head, Squares(strides, object_scale))
    if weights is not None:
        load_torchvision(model, weights, NoWeights, FRESH_LAYERS, _zoo(fpn_channels, extra, object_scale))
    return RepPointsDetector(model, strides)


def _zoo(channels: int, extra: Extra, object_scale: float) -> ZooLayout:
    settings = (
        *pyramid_settings(extra),
        *group_settings(channels, absent=None),
        ZooSetting("bbox_head.transform_method", ("moment",), absent="moment"),
        ZooSetting("bbox_head.num_points", (9,), absent=9),
        ZooSetting("bbox_head.point_base_scale", (object_scale,), absent=4, remedy="set object_scale to this"),
    )
    return ZooLayout(("RepPointsDetector",), (*TOWERS, *_NAMES), settings)
