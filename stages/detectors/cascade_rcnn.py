"""Cascade R-CNN: proposals that three second stages refine, each trained on better boxes than the one before it.

Cai and Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection", CVPR 2018, https://arxiv.org/abs/1712.00726, on a
feature pyramid (Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144), with the constants and decisions of mmdet 3. Departures from
it: nothing of the backbone is frozen, and its normalization learns like the rest; the levels of the pyramid, the anchors' size, the
heads' width and the number of regions are options; validation makes as many proposals as training; those of `proposal_network` and
`adaptive_roi_align`.
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
from stages.detectors.two_stage.refining.losses import CASCADE, RegionRules
from stages.detectors.two_stage.refining.model import RefinementModel, RefinementOptions, load, zoo_layout
from stages.detectors.two_stage.refining.proposal_network import CASCADE_PROPOSALS

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
    """A Cascade R-CNN detector.

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
    model = RefinementModel(layout, CASCADE_PROPOSALS, RegionRules(CASCADE), shared_boxes=True)
    load(model, weights, zoo_layout(model, "CascadeRCNN", "CascadeRoIHead"))
    return RefinementDetector(model, box_batch_size_per_image, rpn_candidates)
