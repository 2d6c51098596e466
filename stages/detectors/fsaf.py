"""FSAF: dense, without anchors; every object is learned at the level of the pyramid that predicts it best.

Zhu et al., "Feature Selective Anchor-Free Module for Single-Shot Object Detection", CVPR 2019, https://arxiv.org/abs/1903.00621. As
MMDetection trains and decides: the anchor-free branch alone; what is ignored around an object is no larger than its core; losses are
divided by the number of positions that learn, here their mean over all processes. Departures: the core's size, the pyramid's strides
and the heads' depth are options.

Its own settings are, in `train`, a gradient clipped to norm 10, and in `export` score_threshold 0.05, iou_threshold 0.5, candidates
1000, max_detections 100.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from deploy.contract import BoxCode
from stages.detectors import Detector, Graph, GraphOptions
from stages.detectors.backbones.deformable import Deformable
from stages.detectors.backbones.options import Backbone, BackboneNorm, BackboneWeights, BackboneWidth, DeformableStages, DeformableVersion
from stages.detectors.backbones.pretrained import NoWeights, load_torchvision, refuse_both
from stages.detectors.backbones.pyramid import PyramidBackbone
from stages.detectors.boxes.nms import pairwise_iou
from stages.detectors.dense.assignment import Positives, gathered
from stages.detectors.dense.center_regions import at_their_best_level, in_core
from stages.detectors.dense.detector import DenseDetector, SelectiveGraph
from stages.detectors.dense.model import FRESH_LAYERS, OneStageModel, Squares, TowersHead
from stages.detectors.dense.options import Extra, FileWeights, FpnChannels, HeadConvs, Strides
from stages.detectors.dense.zoo import TOWERS, predicting, pyramid_settings, square_settings
from stages.detectors.zoo.layout import ZooLayout
from stages.detectors.zoo.settings import ZooSetting
from stages.processes import mean_over_processes

_UNIT = 4.0
"""Strides that a code of 1 means."""

_FIRST_CODE = 0.25
"""Of an untrained head: one stride to each side."""

_LEAST_CODE, _LEAST_OVERLAP = 1e-4, 1e-6


class _Head(TowersHead):
    def __init__(self, channels: int, num_classes: int, num_convs: int) -> None:
        super().__init__(channels, num_classes, num_convs, norm=False)
        assert self.bbox_reg.bias is not None
        nn.init.constant_(self.bbox_reg.bias, _FIRST_CODE)

    def after(self, classes: Sequence[Tensor], boxes: Sequence[Tensor], convs: int) -> dict[str, Tensor]:
        head = super().after(classes, boxes, convs)
        return {"cls_logits": head["cls_logits"], "bbox_regression": torch.relu(head["bbox_regression"])}


class FsafDetector(DenseDetector):
    """See `build`; an anchor is the square of its position, a code the distances up, down, left and right in four strides."""

    def __init__(self, model: OneStageModel, strides: tuple[int, ...], core: float) -> None:
        super().__init__(model, strides)
        self.core = core

    def losses(self, rows: list[dict[str, Tensor]], head: dict[str, Tensor], anchors: list[Tensor], sizes: list[int]) -> dict[str, Tensor]:
        """See DenseDetector.losses."""
        logits = head["cls_logits"]
        found = [in_core(anchors[0], row["boxes"], row["labels"], self.core, logits.shape[-1]) for row in rows]
        matched, ignored = (torch.stack(parts) for parts in zip(*found, strict=True))
        learning = gathered(rows, anchors[0], list(matched))
        boxes = self.decode(head["bbox_regression"][learning.where].clamp(min=_LEAST_CODE), learning.anchors)
        apart = -pairwise_iou(boxes[:, None], learning.boxes[:, None]).flatten().clamp(min=_LEAST_OVERLAP).log()
        by_class = sigmoid_focal_loss(logits, learning.classes(logits.shape[-1])) * (~ignored)
        kept = self._kept(rows, matched, sizes, (by_class[learning.where].sum(dim=1) + apart).detach())
        unlearned = learning.classes(logits.shape[-1], (~kept).float()) > 0
        count = self._count(learning, kept)
        return {"classification": (by_class * (~unlearned)).sum() / count, "bbox_regression": (apart * kept).sum() / count}

    def _kept(self, rows: Sequence[dict[str, Tensor]], matched: Tensor, sizes: list[int], losses: Tensor) -> Tensor:
        """Which of the positions that learn are at the best level of their object."""
        image, place = (matched >= 0).nonzero(as_tuple=True)
        counts = torch.tensor([len(row["boxes"]) for row in rows], device=matched.device)
        objects = matched[image, place] + (counts.cumsum(0) - counts)[image]
        levels = torch.arange(len(sizes), device=matched.device).repeat_interleave(torch.tensor(sizes, device=matched.device))[place]
        return at_their_best_level(losses, objects, levels, (len(sizes), int(counts.sum())))

    @staticmethod
    def _count(learning: Positives, kept: Tensor) -> Tensor:
        """How many positions learn objects, in the mean over processes; if none do, how many there are."""
        mean = mean_over_processes(kept.sum().float())
        return torch.where(mean > 0, mean, torch.full_like(mean, learning.where.numel()))

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See DenseDetector.decode."""
        center = (anchors[..., :2] + anchors[..., 2:]) / 2
        up, down, left, right = (deltas * (_UNIT * (anchors[..., 2:3] - anchors[..., :1]))).unbind(dim=-1)
        return torch.cat((center - torch.stack((left, up), dim=-1), center + torch.stack((right, down), dim=-1)), dim=-1)

    @property
    def box_code(self) -> BoxCode:
        """See DenseDetector.box_code."""
        return BoxCode(kind="sides", scale=(-_UNIT, -_UNIT, _UNIT, _UNIT), order=(2, 0, 3, 1))

    def graph(self, options: GraphOptions) -> Graph:
        """See Detector.graph."""
        return SelectiveGraph(self, options)


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
    head_convs: HeadConvs = 4,
    core: Annotated[float, Field(gt=0, le=1)] = 0.2,
    weights: FileWeights = None,
) -> Detector:
    """An FSAF detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        core: side of the region around an object's center whose positions learn it, as a fraction of the box's.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    refuse_both(weights, backbone_weights)
    deformed = Deformable(deformable, deformable_version)
    pyramid = PyramidBackbone(backbone, width, norm, fpn_channels, strides, backbone_weights, extra, extra_relu=False, deformable=deformed)
    model = OneStageModel(pyramid, _Head(fpn_channels, num_classes, head_convs), Squares(strides, 1.0))
    if weights is not None:
        load_torchvision(model, weights, NoWeights, FRESH_LAYERS, _zoo(extra))
    return FsafDetector(model, strides, core)


def _zoo(extra: Extra) -> ZooLayout:
    unit = ZooSetting("bbox_head.bbox_coder.normalizer", (_UNIT,), absent=_UNIT)
    names = (*TOWERS, *predicting(cls_logits="retina_cls", bbox_reg="retina_reg"))
    return ZooLayout(("FSAF",), names, (*pyramid_settings(extra), *square_settings(1.0), unit))
