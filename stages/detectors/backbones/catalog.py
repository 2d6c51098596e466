"""Backbones: torchvision's image classifiers without their classifiers, ResNets with fewer channels, and timm's."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights, resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from deploy.plugins import suggest
from stages.detectors.backbones import timm_catalog
from stages.detectors.backbones.deformable import OFFSETS, PLAIN, Deformable, deform
from stages.detectors.backbones.pretrained import SUFFIXES, NoWeights, load_backbone
from stages.detectors.backbones.timm_catalog import PROBE_PX

Norm = Literal["batch", "group", "frozen"]

WIDTH = 64
"""Channels after the stem of torchvision's ResNets."""

# block, blocks per stage, groups, channels per group
RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int], int, int]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1), 1, 64),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 1, 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 1, 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 1, 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 1, 64),
    "resnext50_32x4d": (Bottleneck, (3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": (Bottleneck, (3, 4, 23, 3), 32, 4),
    "resnext101_32x8d": (Bottleneck, (3, 4, 23, 3), 32, 8),
    "resnext101_64x4d": (Bottleneck, (3, 4, 23, 3), 64, 4),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3), 1, 128),
}
_UNPUBLISHED = ("resnet10", "resnext101_32x4d")
"""Those for which torchvision has no weights."""

CLASSIFIERS = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *(f"regnet_{kind}_{size}" for kind in "xy" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf")),
    *(f"efficientnet_{size}" for size in ("b0", "b1", "b2", "b3", "b4", "v2_s")),
    *(f"convnext_{size}" for size in ("tiny", "small", "base")),
)
NAMES = (*RESNETS, *CLASSIFIERS)


class ResNetStages(nn.Module):
    """torchvision's ResNet without its classifier, with `width` channels after the stem instead of 64."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        block, depths, groups, channels = RESNETS[name]
        self._block: Callable[..., nn.Module] = block
        self._expansion = block.expansion
        # torchvision's basic block refuses these two, and needs neither
        self._shape = {} if block is BasicBlock else {"groups": groups, "base_width": channels}
        self._channels = width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for index, depth in enumerate(depths):
            setattr(self, f"layer{index + 1}", self._stage(width * 2**index, depth, 1 if index == 0 else 2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, planes: int, depth: int, stride: int) -> nn.Sequential:
        shortcut = None
        out = planes * self._expansion
        if stride != 1 or self._channels != out:
            shortcut = nn.Sequential(resnet.conv1x1(self._channels, out, stride), nn.BatchNorm2d(out))
        blocks = [self._block(self._channels, planes, stride, shortcut, **self._shape)]
        self._channels = out
        blocks += [self._block(out, planes, **self._shape) for _ in range(1, depth)]
        return nn.Sequential(*blocks)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization in groups of 8 channels."""
    return nn.GroupNorm(channels // 8, channels)


def check_name(name: str) -> None:
    """Refuse a name that is not a backbone's.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if name not in NAMES and not name.startswith("timm:"):
        raise ValueError(f"no backbone '{name}'{suggest(name, NAMES)}; choose from {', '.join(NAMES)}, or timm:<name>")


def body(
    name: str, width: int, norm: Norm | None, weights: str | None, strides: Sequence[int], deformable: Deformable = PLAIN
) -> tuple[nn.Module, dict[int, int], tuple[int, ...]]:
    """A backbone up to the coarsest level that it has among `strides`.

    Args:
        name: one of NAMES, or "timm:" and the name of a timm model.
        width: channels after the stem, for plain ResNets; 64 for all others.
        norm: what replaces batch normalization; None keeps the backbone's own.
        weights: torchvision's name for ImageNet weights, or a file; for timm "pretrained", or a file.
        deformable: stages with deformable convolutions, for ResNets and ResNeXts.

    Returns:
        A module from images [B, 3, H, W] to {str(stride): [B, C, H / stride, W / stride]}; C by stride; all strides that it has.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different backbone.
    """
    check_name(name)
    if width != WIDTH and not (name in RESNETS and name.startswith("resnet")):
        raise ValueError(f"width {width}: {name} supports only width {WIDTH}; the plain ResNets support others")
    _check_deformable(name, deformable.stages, strides)
    if name.startswith("timm:"):
        return timm_catalog.body(name.removeprefix("timm:"), norm, weights, strides)
    layers = build_layers(name, width, norm, weights, deformable)
    levels = _levels(layers)
    chosen = {stride: levels[stride] for stride in strides if stride in levels}
    names = {child: str(stride) for stride, (child, _) in chosen.items()}
    module = IntermediateLayerGetter(layers, names) if names else layers
    return module, {stride: channels for stride, (_, channels) in chosen.items()}, tuple(levels)


def build_layers(
    name: str, width: int = WIDTH, norm: Norm | None = None, weights: str | None = None, deformable: Deformable = PLAIN
) -> nn.Module:
    """A backbone of NAMES as a module whose children run in sequence, named as in torchvision's detectors.

    Raises:
        ValueError: incompatible options.
        ArtifactError: weights that are not available or belong to a different backbone.
    """
    check_name(name)
    _check_deformable(name, deformable.stages)
    model = ResNetStages(name, width) if name in RESNETS else get_model(name, weights=None)
    deform(model, deformable)
    if norm is not None:
        _replace_norm(model, name, norm)
    if weights is not None:
        _load(model, name, width, norm, weights)
    if name in RESNETS:
        return model
    if name.startswith("regnet"):
        stages = cast("nn.Sequential", model.trunk_output)
        return nn.Sequential(OrderedDict(stem=cast("nn.Module", model.stem), **dict(stages.named_children())))
    features = cast("nn.Sequential", model.features)
    # the last convolution of these serves only the classifier; MobileNetV3's is part of torchvision's detectors
    return features[:-1] if name.startswith(("efficientnet", "mobilenet_v2")) else features


def _check_deformable(name: str, stages: tuple[int, ...], strides: Sequence[int] | None = None) -> None:
    """Refuse stages that are not to be had; `strides` are the pyramid's, None if it has the backbone's last stage."""
    given = f"deformable [{', '.join(map(str, stages))}]"
    if stages and name not in RESNETS:
        raise ValueError(f"{given}: {name} has no such convolutions; use a ResNet or a ResNeXt, or leave deformable out")
    if tuple(sorted(set(stages))) != stages:
        raise ValueError(f"{given}: use an ascending choice of 3, 4 and 5")
    if stages and strides and 2 ** stages[-1] > max(strides):
        raise ValueError(f"{given}: strides {tuple(strides)} need no stage {stages[-1]}, whose stride is {2 ** stages[-1]}; leave it out")


def _replace_norm(model: nn.Module, name: str, norm: Norm) -> None:
    found = False
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                found = True
                setattr(parent, child_name, _as(norm, child))
    if not found:
        raise ValueError(f"norm {norm}: {name} has no batch normalization to replace; set norm to null")


def _as(norm: Norm, layer: nn.BatchNorm2d) -> nn.Module:
    if norm == "group":
        return group_norm(layer.num_features)
    return FrozenBatchNorm2d(layer.num_features, layer.eps) if norm == "frozen" else layer


def _load(model: nn.Module, name: str, width: int, norm: Norm | None, weights: str) -> None:
    named = not weights.endswith(SUFFIXES)
    if named and (width != WIDTH or name in _UNPUBLISHED):
        raise ValueError(f"backbone_weights {weights} need a torchvision backbone of width 64, not {name} of width {width}")
    if named and norm == "group":
        raise ValueError(
            f"backbone_weights {weights} were trained with batch normalization, not norm group; set norm to batch, frozen or null"
        )
    choices = NoWeights if name in _UNPUBLISHED else get_model_weights(name)
    load_backbone(model, weights, choices, ("fc.", "classifier."), OFFSETS)


def _levels(layers: nn.Module) -> dict[int, tuple[str, int]]:
    """For each stride, the last child whose output has it, and its channels."""
    levels: dict[int, tuple[str, int]] = {}
    layers.eval()
    with torch.no_grad():
        features = torch.zeros(1, 3, PROBE_PX, PROBE_PX)
        for name, child in layers.named_children():
            features = child(features)
            levels[PROBE_PX // features.shape[-1]] = name, features.shape[1]
    layers.train()
    return levels
