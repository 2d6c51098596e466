"""YOLOX's head: at each level towers of its own, one for classes, one for boxes and for whether there is an object at all.

Ge et al., "YOLOX: Exceeding YOLO Series in 2021", https://arxiv.org/abs/2107.08430.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stages.detectors.backbones.csp_darknet import DarknetShape
from stages.detectors.dense.model import RARE

_CONVS = 2
"""Of each tower."""


class _LevelHead(nn.Module):
    def __init__(self, channels: int, num_classes: int, shape: DarknetShape) -> None:
        super().__init__()
        self.cls_convs, self.reg_convs = (nn.Sequential(*(shape.conv(channels, channels) for _ in range(_CONVS))) for _ in range(2))
        self.cls_logits = _predicts(channels, num_classes, RARE)
        self.bbox_reg = _predicts(channels, 4, 0.0)
        self.objectness = _predicts(channels, 1, RARE)

    def forward(self, features: Tensor) -> Mapping[str, Tensor]:
        for_classes, for_boxes = self.cls_convs(features), self.reg_convs(features)
        found = {
            "cls_logits": self.cls_logits(for_classes),
            "bbox_regression": self.bbox_reg(for_boxes),
            "objectness": self.objectness(for_boxes),
        }
        return {name: values.permute(0, 2, 3, 1).flatten(1, 2) for name, values in found.items()}


class DecoupledHead(nn.Module):
    """Maps levels [B, channels, H, W] to rows of "cls_logits", "bbox_regression" and "objectness"."""

    def __init__(self, channels: int, num_classes: int, num_levels: int, shape: DarknetShape) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_LevelHead(channels, num_classes, shape) for _ in range(num_levels))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """See DenseDetector: rows of all levels, position by position."""
        levels = [head(level) for head, level in zip(self.levels, features, strict=True)]
        return {name: torch.cat([level[name] for level in levels], dim=1) for name in levels[0]}


def fresh_layers(num_levels: int) -> tuple[str, ...]:
    """Prefixes of the names of tensors that grow with the number of classes."""
    return tuple(f"head.levels.{index}.cls_logits." for index in range(num_levels))


def _predicts(channels: int, out: int, bias: float) -> nn.Conv2d:
    layer = nn.Conv2d(channels, out, 1)
    assert layer.bias is not None
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    nn.init.constant_(layer.bias, bias)
    return layer
