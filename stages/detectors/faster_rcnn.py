"""Faster R-CNN on torchvision's modules.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015,
https://arxiv.org/abs/1506.01497, on a feature pyramid (Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144); version 2 with the
heads of Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", https://arxiv.org/abs/2111.11429.
Departures beside torchvision's own: the levels of the pyramid, the anchors' size and the heads' width are options; as many proposals
are made in validation as in training.
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
        backbone: a name of stages.detectors.backbones.catalog.NAMES, or "timm:" and a model of timm's.
        width: channels after the stem; 64 is torchvision's ResNet.
        backbone_weights: a torchvision weights name such as IMAGENET1K_V1, or a file.
        norm: of the backbone; null leaves it its own, frozen where version 1 starts from `weights`.
        strides: null for 4 to 64; for mobilenet_v3_large torchvision's two levels of stride 32 and one of 64.
        box_head_channels: of the second stage's hidden layers.
        anchor_scale: an anchor's side in strides of its level.
        box_batch_size_per_image: at most so many regions of an image train the second stage, up to a quarter of them objects.
        rpn_candidates: how many regions of each level are looked at before suppression, in the deployed graph.
        rpn_score_threshold: a region less sure than this is no proposal; torchvision's MobileNets have 0.05.
        weights: COCO_V1, or a file with torchvision's state dict.

    Raises:
        ValueError: options that do not go together.
        ArtifactError: weights that cannot be had or are of another network.
    """
    if weights is not None and backbone_weights is not None:
        raise ValueError(f"weights {weights} hold the backbone's too; set backbone_weights to null")
    shape = num_classes, version, backbone, width, backbone_weights, norm, fpn_channels, strides
    layout = TwoStageOptions(*shape, box_head_channels, anchor_scale, box_batch_size_per_image, rpn_score_threshold, weights)
    model = faster(layout)
    load(model, layout, _WEIGHTS)
    return TwoStageDetector(model, pyramid_of(layout), rpn_candidates)
