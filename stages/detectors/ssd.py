"""SSD on VGG16: torchvision's, and the same network with fewer channels and levels.

Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, https://arxiv.org/abs/1512.02325. Departures in addition to torchvision's
own: the features that are normalized are scaled by their largest channel first, because their squares leave the range of half
precision; default boxes, see stages/detectors/single_shot/detector.py.

Weights expect images in the range 0 to 255, minus a mean. With `weights: COCO_V1` and
`backbone_weights: IMAGENET1K_FEATURES`, set data.preprocessing to height and width 300, resize stretch,
mean [0.48235, 0.45882, 0.40784] and std [0.00392157, 0.00392157, 0.00392157], which is 1/255. Other weights of VGG16 use the
defaults. SSD's own thresholds in `export` are score_threshold 0.01, iou_threshold 0.45, candidates 400, max_detections 200.
"""

from collections import OrderedDict
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import VGG16_BN_Weights, VGG16_Weights, vgg
from torchvision.models.detection import SSD300_VGG16_Weights
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from stages.detectors import Detector
from stages.detectors.backbones.options import BackboneWeights, Weights
from stages.detectors.backbones.pretrained import load_backbone, load_torchvision
from stages.detectors.single_shot.detector import CLASS_LAYERS, SsdDetector

_STRIDES = (8, 16, 32, 64, 128, 256)
_RATIOS = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
_SCALES = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
_STEPS = [8, 16, 32, 64, 100, 300]
_PIXELS = {"color": "rgb", "mean": (0.48235, 0.45882, 0.40784), "std": (1 / 255, 1 / 255, 1 / 255)}
"""The keys of `data.preprocessing` that torchvision's weights need."""
_MIN_SIDE_PX = {5: 140, 6: 268}
"""The convolutions before the last two levels are not padded."""


class VggLevels(nn.Module):
    """SSD's feature maps of images [B, 3, H, W], finest first; torchvision's tensor names, and its shapes at width 64."""

    def __init__(self, width: int, norm: Literal["none", "batch"], num_levels: int, weights: str | None) -> None:
        super().__init__()
        layers = _vgg(width, norm, weights)
        pools = [index for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        third = layers[pools[2]]
        assert isinstance(third, nn.MaxPool2d)
        third.ceil_mode = True
        self.scale_weight = nn.Parameter(torch.full((8 * width,), 20.0))
        self.features = nn.Sequential(*layers[: pools[3]])
        extra: list[nn.Module] = [nn.Sequential(*layers[pools[3] : -1], _dilated(8 * width, 16 * width))]
        extra += [_level(16 * width, 4 * width, 8 * width, halves=True), _level(8 * width, 2 * width, 4 * width, halves=True)]
        extra += [_level(4 * width, 2 * width, 4 * width, halves=False) for _ in range(2)]
        self.extra = nn.ModuleList(extra[: num_levels - 1])
        self.out_channels = [8 * width, 16 * width, 8 * width, 4 * width, 4 * width, 4 * width][:num_levels]

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """The maps by their number."""
        features = self.features(images)
        maps = [self.scale_weight[:, None, None] * _normalize(features)]
        for block in self.extra:
            features = block(features)
            maps.append(features)
        return OrderedDict((str(index), one) for index, one in enumerate(maps))


def _vgg(width: int, norm: Literal["none", "batch"], weights: str | None) -> nn.Sequential:
    """VGG16's layers without its classifier."""
    channels: list[str | int] = [one if isinstance(one, str) else one * width // 64 for one in vgg.cfgs["D"]]
    layers = vgg.make_layers(channels, batch_norm=norm == "batch")
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    if weights is not None:
        choices = VGG16_BN_Weights if norm == "batch" else VGG16_Weights
        load_backbone(nn.Sequential(OrderedDict(features=layers)), weights, choices, ("classifier.",))
    return layers


def _normalize(features: Tensor) -> Tensor:
    """Features [B, C, H, W] of length 1 at each position."""
    scaled = features / features.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
    length: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / length.clamp(min=1e-3)


def _dilated(channels_in: int, channels_out: int) -> nn.Sequential:
    """VGG16's first two linear layers as convolutions."""
    return nn.Sequential(
        nn.MaxPool2d(3, stride=1, padding=1),
        _conv(channels_in, channels_out, 3, padding=6, dilation=6),
        nn.ReLU(inplace=True),
        _conv(channels_out, channels_out, 1),
        nn.ReLU(inplace=True),
    )


def _level(channels_in: int, channels: int, channels_out: int, *, halves: bool) -> nn.Sequential:
    """The next map: of half the size, or without the border."""
    last = _conv(channels, channels_out, 3, padding=1, stride=2) if halves else _conv(channels, channels_out, 3)
    return nn.Sequential(_conv(channels_in, channels, 1), nn.ReLU(inplace=True), last, nn.ReLU(inplace=True))


def _conv(channels_in: int, channels_out: int, size: int, padding: int = 0, dilation: int = 1, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels_in, channels_out, size, padding=padding, dilation=dilation, stride=stride)
    nn.init.xavier_uniform_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


TINY = {"width": 8, "norm": "batch", "levels": 4}
"""Options of a small one, for tests."""


def build(
    num_classes: int,
    *,
    width: Annotated[int, Field(ge=8, le=64, multiple_of=8)] = 64,
    norm: Literal["none", "batch"] = "none",
    levels: Annotated[int, Field(ge=2, le=6)] = 6,
    weights: Weights = None,
    backbone_weights: BackboneWeights = None,
) -> Detector:
    """An SSD detector.

    Args:
        num_classes: labels are 0 to num_classes - 1.
        width: channels of the first convolution; 64 is VGG16 and is required for pretrained weights.
        norm: `batch` is VGG16 with batch normalization, which can be trained from scratch.
        levels: number of feature maps; 6 need images of at least 268 px per side, 5 at least 140.
        backbone_weights: `IMAGENET1K_FEATURES`, `IMAGENET1K_V1`, or a file.

    Raises:
        ValueError: incompatible options, or an unknown name.
        ArtifactError: weights that are not available.
    """
    if weights is not None and backbone_weights is not None:
        raise ValueError("weights include the backbone; set backbone_weights to null")
    if weights is not None and (width, norm, levels) != (64, "none", 6):
        raise ValueError(f"weights {weights} need width 64, norm none and 6 levels, not width {width}, norm {norm} and {levels} levels")
    if backbone_weights is not None and width != 64:
        raise ValueError(f"backbone_weights {backbone_weights} need width 64, not {width}")
    backbone = VggLevels(width, norm, levels, backbone_weights)
    boxes = DefaultBoxGenerator(_RATIOS[:levels], scales=_SCALES[: levels + 1], steps=_STEPS[:levels])
    model = SSD(backbone, boxes, (300, 300), num_classes + 1)
    if weights is not None:
        load_torchvision(model, weights, SSD300_VGG16_Weights, CLASS_LAYERS, pixels=_PIXELS)
    return SsdDetector(model, _STRIDES[:levels], tuple(backbone.out_channels), _MIN_SIDE_PX.get(levels, 1))
