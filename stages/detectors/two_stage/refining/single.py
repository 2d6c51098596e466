"""Faster R-CNN and Mask R-CNN as in mmdet: one second stage, with the parts of those that refine proposals several times."""

from stages.detectors.two_stage.model import TwoStageOptions
from stages.detectors.two_stage.refining.detector import RefinementDetector
from stages.detectors.two_stage.refining.losses import SINGLE, RegionRules
from stages.detectors.two_stage.refining.model import RefinementModel, RefinementOptions, load, zoo_layout
from stages.detectors.two_stage.refining.proposal_network import SINGLE_PROPOSALS

_STRIDES = (4, 8, 16, 32, 64)


def mmdets(layout: TwoStageOptions, rpn_candidates: int, mask_head_channels: int | None = None) -> RefinementDetector:
    """The detector, with masks if their head has channels.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different network.
    """
    if layout.rpn_score_threshold:
        raise ValueError(f"rpn_score_threshold {layout.rpn_score_threshold}: version mmdet keeps regions of any score; set it to 0")
    shape = layout.num_classes, layout.backbone, layout.width, layout.backbone_weights, layout.norm, layout.fpn_channels
    options = RefinementOptions(
        *shape, layout.strides or _STRIDES, layout.box_head_channels, layout.anchor_scale, mask_head_channels, layout.deformable
    )
    model = RefinementModel(options, SINGLE_PROPOSALS, RegionRules(SINGLE), shared_boxes=False)
    kind = "FasterRCNN" if mask_head_channels is None else "MaskRCNN"
    load(model, layout.weights, zoo_layout(model, kind, "StandardRoIHead"))
    return RefinementDetector(model, layout.box_batch_size_per_image, rpn_candidates)
