"""Cascade Mask R-CNN: Cascade R-CNN with instance masks, one more head for them in each second stage.

Cai and Vasconcelos, "Cascade R-CNN: High Quality Object Detection and Instance Segmentation", TPAMI 2021,
https://arxiv.org/abs/1906.09756, with the mask head of He et al., "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870, and the
constants and decisions of mmdet 3: each head learns from its stage's regions, and the mask of a detection is the mean of what all three
make of its final box. Departures from it: those of cascade_rcnn; the mask heads' width is an option; masks are compared with the pixels
of the network's input, never with polygons.
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
from stages.detectors.two_stage.refining.losses import CASCADE, RegionRules
from stages.detectors.two_stage.refining.model import RefinementModel, RefinementOptions, load, zoo_layout
from stages.detectors.two_stage.refining.proposal_network import CASCADE_PROPOSALS

TINY = {**SMALL, "mask_head_channels": 32}
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
    mask_head_channels: Annotated[int, Field(ge=8, le=1024)] = 256,
    anchor_scale: AnchorScale = 8.0,
    box_batch_size_per_image: BoxBatchSize = 512,
    rpn_candidates: RpnCandidates = 1000,
    weights: Weights = None,
) -> Detector:
    """A Cascade Mask R-CNN detector; its masks are 28 x 28 in the frame of their boxes.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        mask_head_channels: channels of the mask heads' layers.
        weights: weights of the whole detector: a file (.pth, .pt, .safetensors).

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different network.
    """
    refuse_both(weights, backbone_weights)
    shape = num_classes, backbone, width, backbone_weights, norm, fpn_channels, strides, box_head_channels, anchor_scale
    layout = RefinementOptions(*shape, mask_head_channels, deformable=Deformable(deformable, deformable_version))
    model = RefinementModel(layout, CASCADE_PROPOSALS, RegionRules(CASCADE), shared_boxes=True)
    load(model, weights, zoo_layout(model, "CascadeRCNN", "CascadeRoIHead"))
    return RefinementDetector(model, box_batch_size_per_image, rpn_candidates)
