"""Grid R-CNN: proposals and a second stage that finds boxes as grids of nine points on heat maps.

Lu et al., "Grid R-CNN", CVPR 2019, https://arxiv.org/abs/1811.12030, in the form of "Grid R-CNN Plus: Faster and Better", 2019,
https://arxiv.org/abs/1906.05688, on a feature pyramid (Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144), with the constants and
decisions of mmdet 3. Departures from it: those of cascade_rcnn; boxes are clipped to the image, which mmdet means to do but does not.

Its own thresholds in `export` are score_threshold 0.03, iou_threshold 0.3, max_detections 100.
"""

from typing import Annotated

from pydantic import Field

from stages.detectors import Detector
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
from stages.detectors.backbones.pretrained import refuse_both
from stages.detectors.two_stage.grid.detector import GridDetector
from stages.detectors.two_stage.grid.model import GridModel
from stages.detectors.two_stage.options import (
    SMALL,
    AllStrides,
    AnchorScale,
    BoxBatchSize,
    BoxHeadChannels,
    FpnChannels,
    RpnCandidates,
)
from stages.detectors.two_stage.refining.model import RefinementOptions, load, proposing_settings
from stages.detectors.zoo.layout import ZooLayout
from stages.detectors.zoo.settings import ZooSetting

TINY = {**SMALL, "point_channels": 8}
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
    strides: AllStrides = (4, 8, 16, 32, 64),
    box_head_channels: BoxHeadChannels = 1024,
    point_channels: Annotated[int, Field(ge=4, le=256, multiple_of=4)] = 64,
    anchor_scale: AnchorScale = 8.0,
    box_batch_size_per_image: BoxBatchSize = 512,
    rpn_candidates: RpnCandidates = 1000,
    weights: Weights = None,
) -> Detector:
    """A Grid R-CNN detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        point_channels: channels of the features of each of the nine points.
        weights: weights of the whole detector: a file (.pth, .pt, .safetensors).

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different network.
    """
    refuse_both(weights, backbone_weights)
    shape = num_classes, backbone, width, backbone_weights, norm, fpn_channels, strides, box_head_channels, anchor_scale
    model = GridModel(RefinementOptions(*shape, deformable=Deformable(deformable, deformable_version)), point_channels)
    load(model, weights, _zoo(model, point_channels))
    return GridDetector(model, box_batch_size_per_image, rpn_candidates)


def _zoo(model: GridModel, point_channels: int) -> ZooLayout:
    layer = "roi_head.grid_roi_extractor.roi_layer"
    settings = (
        *proposing_settings(model, "GridRoIHead"),
        ZooSetting("roi_head.grid_head.grid_points", (9,), absent=9),
        ZooSetting("roi_head.grid_head.num_convs", (8,), absent=8),
        ZooSetting("roi_head.grid_head.point_feat_channels", (point_channels,), absent=64, remedy="set point_channels to this"),
        ZooSetting("roi_head.grid_head.norm_cfg.num_groups", (36,), absent=36),
        ZooSetting(f"{layer}.sampling_ratio", (0,), absent=0),
        ZooSetting(f"{layer}.aligned", (True,), absent=True),
    )
    return ZooLayout(("GridRCNN",), (), settings)
