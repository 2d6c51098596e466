"""Dynamic R-CNN: proposals and a second stage that becomes stricter as the proposals become better.

Zhang et al., "Dynamic R-CNN: Towards High Quality Object Detection via Dynamic Training", ECCV 2020, https://arxiv.org/abs/2004.06002, on
a feature pyramid (Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144), with the constants and decisions of mmdet 3. Departures from
it: those of cascade_rcnn and of `dynamic_rules`.
"""

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
from stages.detectors.two_stage.options import (
    SMALL,
    AllStrides,
    AnchorScale,
    BoxBatchSize,
    BoxHeadChannels,
    FpnChannels,
    RpnCandidates,
)
from stages.detectors.two_stage.refining.detector import RefinementDetector
from stages.detectors.two_stage.refining.dynamic_rules import PROPOSALS, DynamicRules
from stages.detectors.two_stage.refining.model import RefinementModel, RefinementOptions, load, zoo_layout

TINY = {**SMALL}
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
    anchor_scale: AnchorScale = 8.0,
    box_batch_size_per_image: BoxBatchSize = 512,
    rpn_candidates: RpnCandidates = 1000,
    weights: Weights = None,
) -> Detector:
    """A Dynamic R-CNN detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        weights: weights of the whole detector: a file (.pth, .pt, .safetensors).

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different network.
    """
    refuse_both(weights, backbone_weights)
    shape = num_classes, backbone, width, backbone_weights, norm, fpn_channels, strides, box_head_channels, anchor_scale
    layout = RefinementOptions(*shape, deformable=Deformable(deformable, deformable_version))
    model = RefinementModel(layout, PROPOSALS, DynamicRules(), shared_boxes=False)
    load(model, weights, zoo_layout(model, "FasterRCNN", "DynamicRoIHead"))
    return RefinementDetector(model, box_batch_size_per_image, rpn_candidates)
