"""Faster R-CNN on torchvision's modules: two stages.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
https://arxiv.org/abs/1506.01497, on a feature pyramid (Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144); version 2 with the
heads of Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", https://arxiv.org/abs/2111.11429.
Version `mmdet` is MMDetection's form, on our own modules, with its constants and decisions: its departures are those of cascade_rcnn.
Departures in addition to torchvision's own: the levels of the pyramid, the anchors' size and the heads' width are options; validation
makes as many proposals as training.
"""

from torchvision.models import WeightsEnum
from torchvision.models.detection import faster_rcnn as torchvisions

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
from stages.detectors.two_stage.model import TwoStageOptions, faster, load, pyramid_of
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
    ("resnet50", 1): torchvisions.FasterRCNN_ResNet50_FPN_Weights,
    ("resnet50", 2): torchvisions.FasterRCNN_ResNet50_FPN_V2_Weights,
    ("mobilenet_v3_large", 1): torchvisions.FasterRCNN_MobileNet_V3_Large_FPN_Weights,
}

TINY = {**SMALL}
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
    anchor_scale: AnchorScale = 8.0,
    box_batch_size_per_image: BoxBatchSize = 512,
    rpn_candidates: RpnCandidates = 1000,
    rpn_score_threshold: RpnScoreThreshold = 0.0,
    weights: Weights = None,
) -> Detector:
    """A Faster R-CNN detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        weights: weights of the whole detector: `COCO_V1` (available for the default options, for version 2 and for
            `mobilenet_v3_large`) or a file, for version mmdet one of MMDetection's.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different network.
    """
    refuse_both(weights, backbone_weights)
    shape = num_classes, version, backbone, width, backbone_weights, norm, fpn_channels, strides
    second = box_head_channels, anchor_scale, box_batch_size_per_image, rpn_score_threshold
    layout = TwoStageOptions(*shape, *second, weights, Deformable(deformable, deformable_version))
    if version == "mmdet":
        return mmdets(layout, rpn_candidates)
    model = faster(layout)
    load(model, layout, _WEIGHTS)
    return TwoStageDetector(model, pyramid_of(layout), rpn_candidates)
