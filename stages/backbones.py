"""Backbones with a feature pyramid: torchvision's ResNets, and the same blocks in fewer layers and channels."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torchvision.models import get_model_weights, resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from deploy.errors import ArtifactError
from deploy.plugins import suggest

Norm = Literal["batch", "group", "frozen"]

DEPTHS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


def norm_layer(kind: Norm) -> Callable[[int], nn.Module]:
    """The constructor of a normalization layer, called with the number of channels, a multiple of 8."""
    layers: dict[Norm, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm, "frozen": FrozenBatchNorm2d}
    return layers[kind]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization in groups of 8 channels."""
    return nn.GroupNorm(channels // 8, channels)


class ResNetStages(nn.Module):
    """torchvision's ResNet without its classifier, `width` channels after the stem instead of 64."""

    def __init__(self, name: str, width: int, norm: Norm) -> None:
        super().__init__()
        block, depths = DEPTHS[name]
        self._norm = norm_layer(norm)
        self._channels = width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = self._norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for index, depth in enumerate(depths):
            setattr(self, f"layer{index + 1}", self._stage(block, width * 2**index, depth, 1 if index == 0 else 2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, block: type[BasicBlock] | type[Bottleneck], planes: int, depth: int, stride: int) -> nn.Sequential:
        shortcut = None
        if stride != 1 or self._channels != planes * block.expansion:
            out = planes * block.expansion
            shortcut = nn.Sequential(resnet.conv1x1(self._channels, out, stride), self._norm(out))
        blocks: list[nn.Module] = [block(self._channels, planes, stride, shortcut, norm_layer=self._norm)]
        self._channels = planes * block.expansion
        blocks += [block(self._channels, planes, norm_layer=self._norm) for _ in range(1, depth)]
        return nn.Sequential(*blocks)


class PyramidBackbone(nn.Module):
    """A backbone and its feature pyramid: images [B, 3, H, W] to one map [B, out_channels, H / s, W / s] for each stride s."""

    def __init__(self, name: str, width: int, norm: Norm, channels: int, strides: tuple[int, ...], weights: str | None) -> None:
        super().__init__()
        if name not in DEPTHS:
            raise ValueError(f"no backbone '{name}'; choose from {', '.join(DEPTHS)}")
        if tuple(sorted(set(strides))) != strides or not set(strides) <= {4, 8, 16, 32, 64}:
            raise ValueError(f"strides {strides}: give an ascending choice of 4, 8, 16, 32, 64")
        if not strides or (64 in strides and 32 not in strides):
            raise ValueError(f"strides {strides}: at least one of 4, 8, 16, 32 is needed, and 32 for 64, which is made from it")
        self.out_channels = channels
        self.strides = strides
        body = self._body(name, width, norm, weights)
        last = max(index for index, stride in enumerate((4, 8, 16, 32)) if stride in strides)
        levels = {f"layer{i + 1}": str(stride) for i, stride in enumerate((4, 8, 16, 32)) if stride in strides}
        expansion = DEPTHS[name][0].expansion
        inputs = [width * expansion * 2**i for i in range(last + 1) if (4, 8, 16, 32)[i] in strides]
        self.body = IntermediateLayerGetter(body, levels)
        extra = LastLevelMaxPool() if 64 in strides else None
        self.fpn = FeaturePyramidNetwork(inputs, channels, extra_blocks=extra)

    @staticmethod
    def _body(name: str, width: int, norm: Norm, weights: str | None) -> nn.Module:
        if weights is None:
            return ResNetStages(name, width, norm)
        if width != 64 or name == "resnet10":
            raise ValueError(f"backbone_weights {weights} need a torchvision ResNet of width 64, not {name} of width {width}")
        known = [one.name for one in get_model_weights(name)]
        if weights not in known:
            raise ValueError(f"no backbone_weights '{weights}' of {name}{suggest(weights, known)}; choose from {', '.join(known)}")
        try:
            return resnet.__dict__[name](weights=weights, norm_layer=norm_layer(norm))  # type: ignore[no-any-return]
        except OSError as error:
            raise ArtifactError(
                f"backbone_weights {weights} of {name} cannot be fetched ({error}); connect, or set them to null"
            ) from error

    def forward(self, images: Tensor) -> "dict[str, Tensor]":
        """The pyramid, keyed by level, finest first."""
        features: dict[str, Tensor] = self.fpn(self.body(images))
        return features
