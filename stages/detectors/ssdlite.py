"""SSDlite on MobileNetV3: torchvision's, and the same network with fewer channels.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, https://arxiv.org/abs/1801.04381, section 6.2;
Howard et al., "Searching for MobileNetV3", ICCV 2019, https://arxiv.org/abs/1905.02244, section 6.3. Departure: `width_mult` also
narrows the layers after the backbone.

Weights expect images in the range -1 to 1. With `weights: COCO_V1`, set data.preprocessing to height and width 320, resize
stretch, mean [0.5, 0.5, 0.5] and std [0.5, 0.5, 0.5]; backbone_weights use the defaults. SSDlite's own thresholds in `export` are
score_threshold 0.001, iou_threshold 0.55, candidates 300, max_detections 300.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from pydantic import Field
from torch import nn
from torchvision.models import WeightsEnum, mobilenetv3
from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.ops import FrozenBatchNorm2d

from stages.detectors import Detector
from stages.detectors.backbones.catalog import group_norm
from stages.detectors.backbones.options import BackboneWeights, Weights
from stages.detectors.backbones.pretrained import load_backbone, load_torchvision
from stages.detectors.single_shot.detector import CLASS_LAYERS, SsdDetector

_STRIDES = (16, 32, 64, 128, 256, 512)
_EPSILON = 0.001
_PIXELS = {"color": "rgb", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
"""The keys of `data.preprocessing` that torchvision's weights need."""
_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": partial(nn.BatchNorm2d, eps=_EPSILON, momentum=0.03),
    "group": group_norm,
    "frozen": partial(FrozenBatchNorm2d, eps=_EPSILON),
}
_BACKBONES: dict[str, tuple[Callable[..., mobilenetv3.MobileNetV3], type[WeightsEnum]]] = {
    "mobilenet_v3_large": (mobilenetv3.mobilenet_v3_large, mobilenetv3.MobileNet_V3_Large_Weights),
    "mobilenet_v3_small": (mobilenetv3.mobilenet_v3_small, mobilenetv3.MobileNet_V3_Small_Weights),
}

TINY = {"width_mult": 0.25, "norm": "group"}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    backbone: Literal["mobilenet_v3_large", "mobilenet_v3_small"] = "mobilenet_v3_large",
    width_mult: Annotated[float, Field(ge=0.25, le=1, multiple_of=0.125)] = 1.0,
    norm: Literal["batch", "group", "frozen"] = "batch",
    reduced_tail: bool | None = None,
    weights: Weights = None,
    backbone_weights: BackboneWeights = None,
) -> Detector:
    """An SSDlite detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        width_mult: multiplies the channels of MobileNetV3 and SSDlite.
        norm: `batch` needs batches of 2 images or more, because the last level may be a single position; `frozen` makes sense only with
            weights, and with `backbone_weights` it applies only to the backbone.
        reduced_tail: halve the channels in the backbone's last blocks; null does so unless `backbone_weights` is given.
        backbone_weights: `IMAGENET1K_V1`, for the large backbone also `IMAGENET1K_V2`, or a file.
        backbone: the small one has fewer layers and channels.

    Raises:
        ValueError: incompatible options, or an unknown name.
        ArtifactError: weights that are not available.
    """
    _check(backbone, width_mult, norm, weights, backbone_weights)
    if reduced_tail and backbone_weights in [one.name for one in _BACKBONES[backbone][1]]:
        raise ValueError(f"backbone_weights {backbone_weights} have the full tail; set reduced_tail to null")
    tail = backbone_weights is None if reduced_tail is None else reduced_tail
    fresh = _NORMS["batch" if norm == "frozen" and weights is None else norm]
    levels = _levels(backbone, width_mult, norm, fresh, tail, backbone_weights)
    extra = [block[-1].out_channels for block in levels.extra]  # type: ignore[index]
    channels = [levels.features[0][-1].out_channels, levels.features[1][-1].out_channels, *extra]  # type: ignore[index]
    boxes = DefaultBoxGenerator([[2, 3]] * len(channels), min_ratio=0.2, max_ratio=0.95)
    head = SSDLiteHead(channels, boxes.num_anchors_per_location(), num_classes + 1, fresh)
    model = SSD(levels, boxes, (320, 320), num_classes + 1, head=head)
    if weights is not None:
        load_torchvision(model, weights, SSDLite320_MobileNet_V3_Large_Weights, CLASS_LAYERS, pixels=_PIXELS)
    return SsdDetector(model, _STRIDES, tuple(channels))


def _check(backbone: str, width_mult: float, norm: str, weights: str | None, backbone_weights: str | None) -> None:
    """Refuse incompatible options."""
    if weights is not None and backbone_weights is not None:
        raise ValueError("weights include the backbone; set backbone_weights to null")
    if weights is not None and backbone != "mobilenet_v3_large":
        raise ValueError(f"weights {weights} need backbone mobilenet_v3_large, not {backbone}")
    for option, given in (("weights", weights), ("backbone_weights", backbone_weights)):
        if given is not None and (width_mult != 1 or norm == "group"):
            raise ValueError(f"{option} {given} need width_mult 1 and norm batch or frozen, not {width_mult} and {norm}")


def _levels(
    name: str, width_mult: float, norm: str, fresh: Callable[[int], nn.Module], reduced_tail: bool, weights: str | None
) -> SSDLiteFeatureExtractorMobileNet:
    """The backbone with the layers after it: images to six maps."""
    build_backbone, choices = _BACKBONES[name]
    backbone = build_backbone(norm_layer=_NORMS[norm], reduced_tail=reduced_tail, width_mult=width_mult)
    if weights is None:
        for layer in backbone.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.03)
    else:
        load_backbone(backbone, weights, choices, ("classifier.",))
    strided = [index for index, block in enumerate(backbone.features) if getattr(block, "_is_cn", False)]
    return SSDLiteFeatureExtractorMobileNet(backbone.features, strided[-1], fresh, width_mult)
