"""Mask R-CNN on torchvision's modules: two stages, with instance masks.

He et al., "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870; version 2 with the heads of Li et al., "Benchmarking Detection
Transfer Learning with Vision Transformers", https://arxiv.org/abs/2111.11429. Departures: those of faster_rcnn, and the mask head's
width is an option.
"""

from typing import Annotated

from pydantic import Field
from torchvision.models import WeightsEnum
from torchvision.models.detection import mask_rcnn as torchvisions

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
from stages.detectors.two_stage.detector import TwoStageDetector
from stages.detectors.two_stage.model import TwoStageOptions, load, mask, pyramid_of
from stages.detectors.two_stage.options import (
    SMALL,
    AnchorScale,
    BoxBatchSize,
    BoxHeadChannels,
    FpnChannels,
    HeadVersion,
    RpnCandidates,
    RpnScoreThreshold,
    Strides,
)
from stages.detectors.two_stage.refining.single import mmdets

_WEIGHTS: dict[tuple[str, int | str], type[WeightsEnum]] = {
    ("resnet50", 1): torchvisions.MaskRCNN_ResNet50_FPN_Weights,
    ("resnet50", 2): torchvisions.MaskRCNN_ResNet50_FPN_V2_Weights,
}

TINY = {**SMALL, "mask_head_channels": 32}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    version: HeadVersion = 1,
    backbone: Backbone = "resnet50",
    width: BackboneWidth = 64,
    backbone_weights: BackboneWeights = None,
    norm: BackboneNorm = None,
    deformable: DeformableStages = (),
    deformable_version: DeformableVersion = 1,
    fpn_channels: FpnChannels = 256,
    strides: Strides = None,
    box_head_channels: BoxHeadChannels = 1024,
    mask_head_channels: Annotated[int, Field(ge=8, le=1024)] = 256,
    anchor_scale: AnchorScale = 8.0,
    box_batch_size_per_image: BoxBatchSize = 512,
    rpn_candidates: RpnCandidates = 1000,
    rpn_score_threshold: RpnScoreThreshold = 0.0,
    weights: Weights = None,
) -> Detector:
    """A Mask R-CNN detector; its masks are 28 x 28 in the frame of their boxes.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        mask_head_channels: channels of the mask head's layers.
        weights: weights of the whole detector: `COCO_V1` (available for the default options and for version 2) or a file, for version mmdet
            one of MMDetection's.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different network.
    """
    refuse_both(weights, backbone_weights)
    shape = num_classes, version, backbone, width, backbone_weights, norm, fpn_channels, strides
    second = box_head_channels, anchor_scale, box_batch_size_per_image, rpn_score_threshold
    layout = TwoStageOptions(*shape, *second, weights, Deformable(deformable, deformable_version))
    if version == "mmdet":
        return mmdets(layout, rpn_candidates, mask_head_channels)
    model = mask(layout, mask_head_channels)
    load(model, layout, _WEIGHTS)
    return TwoStageDetector(model, pyramid_of(layout), rpn_candidates)
