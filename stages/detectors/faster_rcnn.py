"""Faster R-CNN on torchvision's modules.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
https://arxiv.org/abs/1506.01497, on a feature pyramid (Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144); version 2 with the
heads of Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", https://arxiv.org/abs/2111.11429.
Departures in addition to torchvision's own: the levels of the pyramid, the anchors' size and the heads' width are options; validation
makes as many proposals as training.
"""

from typing import Annotated, Literal

from pydantic import Field
from torchvision.models import WeightsEnum
from torchvision.models.detection import faster_rcnn as torchvisions

from deploy.plugins import OptionRole
from stages.detectors import Detector
from stages.detectors.two_stage.detector import TwoStageDetector
from stages.detectors.two_stage.model import TwoStageOptions, faster, load, pyramid_of

_WEIGHTS: dict[tuple[str, int], type[WeightsEnum]] = {
    ("resnet50", 1): torchvisions.FasterRCNN_ResNet50_FPN_Weights,
    ("resnet50", 2): torchvisions.FasterRCNN_ResNet50_FPN_V2_Weights,
    ("mobilenet_v3_large", 1): torchvisions.FasterRCNN_MobileNet_V3_Large_FPN_Weights,
}


def build(
    num_classes: int,
    *,
    version: Literal[1, 2] = 1,
    backbone: str = "resnet50",
    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)] = 64,
    backbone_weights: Annotated[str, OptionRole.WEIGHTS] | None = None,
    norm: Literal["batch", "group", "frozen"] | None = None,
    fpn_channels: Annotated[int, Field(ge=16, le=1024, multiple_of=8)] = 256,
    strides: Annotated[tuple[Literal[4, 8, 16, 32, 64], ...], Field(min_length=1), OptionRole.STRIDES] | None = None,
    box_head_channels: Annotated[int, Field(ge=16, le=4096)] = 1024,
    anchor_scale: Annotated[float, Field(gt=0, le=32)] = 8.0,
    box_batch_size_per_image: Annotated[int, Field(ge=4, le=4096)] = 512,
    rpn_candidates: Annotated[int, Field(ge=1, le=3000)] = 1000,
    rpn_score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    weights: Annotated[str, OptionRole.WEIGHTS] | None = None,
) -> Detector:
    """A Faster R-CNN detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        version: 2 is torchvision's fasterrcnn_resnet50_fpn_v2, with deeper heads and batch normalization in them.
        backbone: a name of stages.detectors.backbones.catalog.NAMES, or "timm:" and the name of a timm model.
        width: channels after the stem; 64 is torchvision's ResNet.
        backbone_weights: a torchvision weights name such as IMAGENET1K_V1, or a file.
        norm: normalization of the backbone; null: its own, but frozen if version 1 starts from `weights`.
        strides: one per level; null: 4 to 64, and for mobilenet_v3_large torchvision's two levels of stride 32 and one of 64.
        box_head_channels: channels of the second stage's hidden layers.
        anchor_scale: side of an anchor, in strides of its level.
        box_batch_size_per_image: maximum number of regions per image that train the second stage; up to a quarter of them are objects.
        rpn_candidates: number of regions per level that the deployed graph considers before suppression.
        rpn_score_threshold: regions with a lower score are dropped; torchvision's MobileNets use 0.05.
        weights: COCO_V1, or a file with torchvision's state dict.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different network.
    """
    if weights is not None and backbone_weights is not None:
        raise ValueError(f"weights {weights} include the backbone's; set backbone_weights to null")
    shape = num_classes, version, backbone, width, backbone_weights, norm, fpn_channels, strides
    layout = TwoStageOptions(*shape, box_head_channels, anchor_scale, box_batch_size_per_image, rpn_score_threshold, weights)
    model = faster(layout)
    load(model, layout, _WEIGHTS)
    return TwoStageDetector(model, pyramid_of(layout), rpn_candidates)
