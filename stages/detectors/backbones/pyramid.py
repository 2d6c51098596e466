"""A backbone and its feature pyramid.

Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, https://arxiv.org/abs/1612.03144, as in torchvision,
with the tensor names of its detectors. Departure: any choice of the backbone's levels.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from stages.detectors.backbones.catalog import Norm, body
from stages.detectors.backbones.deformable import PLAIN, Deformable

Extra = Literal["pool", "p6p7", "p6p7_c5"]

FpnNorm = Callable[..., nn.Module]

STRIDES = (4, 8, 16, 32, 64, 128)


class _Pool(ExtraFPNBlock):
    """Every second position of the coarsest level."""

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return [*results, functional.max_pool2d(results[-1], kernel_size=1, stride=2)], [*names, "pool"]


class _Convolutions(ExtraFPNBlock):
    """torchvision's LastLevelP6P7 with one level or two, from the coarsest level or from the backbone's own map.

    norm: follows each convolution, which then has no bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, num_levels: int, norm: FpnNorm | None, *, from_backbone: bool, relu: bool
    ) -> None:
        super().__init__()
        self.from_backbone = from_backbone
        self.relu = relu
        self.p6 = _coarser(in_channels, out_channels, norm)
        if num_levels > 1:
            self.p7 = _coarser(out_channels, out_channels, norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        p6 = self.p6((x if self.from_backbone else results)[-1])
        if not hasattr(self, "p7"):
            return [*results, p6], [*names, "p6"]
        return [*results, p6, self.p7(functional.relu(p6) if self.relu else p6)], [*names, "p6", "p7"]


def _coarser(in_channels: int, out_channels: int, norm: FpnNorm | None) -> nn.Module:
    if norm is None:
        return nn.Conv2d(in_channels, out_channels, 3, 2, 1)
    return Conv2dNormActivation(in_channels, out_channels, 3, 2, 1, norm_layer=norm, activation_layer=None)


class PyramidBackbone(nn.Module):
    """Maps images [B, 3, H, W] to one map [B, out_channels, H / s, W / s], rounded up, per stride s."""

    def __init__(
        self,
        name: str,
        width: int,
        norm: Norm | None,
        channels: int,
        strides: tuple[int, ...],
        weights: str | None,
        extra: Extra = "pool",
        fpn_norm: FpnNorm | None = None,
        *,
        extra_relu: bool = True,
        deformable: Deformable = PLAIN,
    ) -> None:
        """See `catalog.body`; `extra` makes the levels above the backbone's coarsest, `fpn_norm` follows each convolution.

        extra_relu: whether a ReLU stands between two levels that convolutions make, as in torchvision.

        Raises:
            ValueError: incompatible options.
            ArtifactError: weights that are not available or belong to a different backbone.
        """
        super().__init__()
        if tuple(sorted(set(strides))) != strides or not set(strides) <= set(STRIDES):
            raise ValueError(f"strides {strides}: use an ascending choice of {', '.join(map(str, STRIDES))}")
        self.out_channels = channels
        self.strides = strides
        self.body, inputs, available = body(name, width, norm, weights, strides, deformable)
        above = tuple(stride for stride in strides if stride not in inputs)
        _check(name, strides, above, [stride for stride in available if stride in STRIDES], extra)
        made = _extra(extra, inputs, channels, len(above), fpn_norm, relu=extra_relu)
        self.fpn = FeaturePyramidNetwork(list(inputs.values()), channels, made, norm_layer=fpn_norm)

    def forward(self, images: Tensor) -> "dict[str, Tensor]":
        """The pyramid, keyed by level, finest first."""
        features: dict[str, Tensor] = self.fpn(self.body(images))
        return features


def _check(name: str, strides: tuple[int, ...], above: tuple[int, ...], available: Sequence[int], extra: Extra) -> None:
    own = ", ".join(map(str, available))
    if len(above) == len(strides):
        raise ValueError(f"strides {strides}: at least one of {own} is needed, which {name} has")
    last = max(available)
    if above and last not in strides:
        raise ValueError(f"strides {strides}: {last} is needed for {above[0]}, which is made from it")
    expected = tuple(last * 2 ** (i + 1) for i in range(len(above)))
    if above != expected:
        raise ValueError(f"strides {strides}: {name} has {own}; above those, every stride up to {strides[-1]} is needed")
    if extra == "pool" and len(above) > 1:
        raise ValueError(f"strides {strides}: extra pool makes one level above {last}; set extra to p6p7, which makes two")
    if len(above) > 2:
        raise ValueError(f"strides {strides}: at most two levels are made above {name}'s {last}")


def _extra(
    extra: Extra, inputs: dict[int, int], channels: int, num_levels: int, norm: FpnNorm | None, *, relu: bool
) -> ExtraFPNBlock | None:
    if not num_levels:
        return None
    if extra == "pool":
        return _Pool()
    from_backbone = extra == "p6p7_c5"
    coarsest = inputs[max(inputs)]
    return _Convolutions(coarsest if from_backbone else channels, channels, num_levels, norm, from_backbone=from_backbone, relu=relu)
