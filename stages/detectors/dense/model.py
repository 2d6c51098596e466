"""One-stage models of our own: a pyramid, a head with two towers, and one square anchor at every position."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from stages.detectors.backbones.catalog import group_norm
from stages.detectors.backbones.csp_darknet import DarknetPyramid
from stages.detectors.backbones.pyramid import PyramidBackbone

FRESH_LAYERS = ("head.cls_logits.",)
"""Prefixes of the names of tensors that grow with the number of classes."""

RARE = -4.595
"""Bias of the class logits of an untrained head: a probability of 0.01."""


class Squares(nn.Module):
    """One square anchor around the corner (x * s, y * s) of every position of a level of stride s; its side is `scale` * s px.

    torchvision's generator rounds anchors to whole px and derives the stride from the level's size, which differs where that is rounded.
    """

    def __init__(self, strides: Sequence[int], scale: float) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.scale = scale

    def num_anchors_per_location(self) -> list[int]:
        """1 for every level."""
        return [1] * len(self.strides)

    def forward(self, images: ImageList, features: Sequence[Tensor]) -> list[Tensor]:
        """For each image [N of all levels, 4], in the features' type."""
        squares = [self._level(level, stride) for level, stride in zip(features, self.strides, strict=True)]
        return [torch.cat(squares)] * len(images.image_sizes)

    def _level(self, level: Tensor, stride: int) -> Tensor:
        y, x = (torch.arange(size, device=level.device, dtype=level.dtype) * stride for size in level.shape[-2:])
        center = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        return torch.cat((center - self.scale * stride / 2, center + self.scale * stride / 2), dim=1)


def start_rare(head: nn.Module, classes: nn.Module) -> None:
    """Let a head's convolutions predict little at first, and classes rarely."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.constant_(module.bias, RARE if module is classes else 0.0)


class LearnedScale(nn.Module):
    """Multiplies by a number that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, values: Tensor) -> Tensor:
        """Of the values' shape."""
        return values * self.scale


class TowersHead(nn.Module):
    """A tower of convolutions for classes and one for boxes, shared by all levels, with 3 x 3 layers that predict.

    Args:
        codes: numbers that each box is coded with.
        norm: whether each convolution is followed by group normalization; without it they have biases.
        bias: whether they have biases anyway.
        quality: whether the second tower also predicts a box's quality.
        num_scales: number of levels, each of which multiplies its codes by a number that is learned; 0: none does.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int,
        *,
        codes: int = 4,
        norm: bool = True,
        bias: bool = False,
        quality: bool = False,
        num_scales: int = 0,
    ) -> None:
        super().__init__()
        self.cls_convs = tower(channels, num_convs, norm=norm, bias=bias)
        self.reg_convs = tower(channels, num_convs, norm=norm, bias=bias)
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.bbox_reg = nn.Conv2d(channels, codes, 3, padding=1)
        self.bbox_ctrness = nn.Conv2d(channels, 1, 3, padding=1) if quality else None
        self.scales = nn.ModuleList(LearnedScale() for _ in range(num_scales))
        start_rare(self, self.cls_logits)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """See DenseDetector: rows of all levels, position by position."""
        return self.after(features, features, 0)

    def after(self, classes: Sequence[Tensor], boxes: Sequence[Tensor], convs: int) -> dict[str, Tensor]:
        """The same from what each tower has made of the levels after this number of convolutions."""
        levels = [self.level(*both, index, convs) for index, both in enumerate(zip(classes, boxes, strict=True))]
        return {name: torch.cat([level[name].permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1) for name in levels[0]}

    def level(self, classes: Tensor, boxes: Tensor, index: int, convs: int) -> Mapping[str, Tensor]:
        """What is predicted at a level's positions, by name, [B, ..., H, W]; `convs` convolutions of each tower have been applied."""
        for_classes, for_boxes = self.cls_convs[convs:](classes), self.reg_convs[convs:](boxes)
        codes = self.bbox_reg(for_boxes)
        head = {"cls_logits": self.cls_logits(for_classes), "bbox_regression": self.scales[index](codes) if self.scales else codes}
        if self.bbox_ctrness is not None:
            head["bbox_ctrness"] = self.bbox_ctrness(for_boxes)
        return head


def tower(channels: int, num_convs: int, *, norm: bool, bias: bool = False) -> nn.Sequential:
    """Convolutions with ReLUs, and with group normalization or biases; `bias`: with both."""
    layers = []
    for _ in range(num_convs):
        layer: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(channels, channels, 3, padding=1, bias=bias or not norm))
        if norm:
            layer["gn"] = group_norm(channels)
        layer["relu"] = nn.ReLU(inplace=True)
        layers.append(nn.Sequential(layer))
    return nn.Sequential(*layers)


class OneStageModel(nn.Module):
    """The parts of a DenseDetector, named as torchvision names them."""

    def __init__(self, backbone: PyramidBackbone | DarknetPyramid, head: nn.Module, anchor_generator: Squares) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.anchor_generator = anchor_generator
