"""Grid R-CNN's two heads: one for a region's class, one for where the points of a grid over its object are.

Lu et al., "Grid R-CNN", CVPR 2019, https://arxiv.org/abs/1811.12030, and "Grid R-CNN Plus: Faster and Better", 2019,
https://arxiv.org/abs/1906.05688. Tensors are named as in mmdet.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.detectors.two_stage.grid.heat_maps import SIDE
from stages.detectors.two_stage.refining.heads import BOX_SIZE

GRID_SIZE = 14
"""Side of the features of a region, for its grid."""

_POINTS = SIDE * SIDE
_CONVS, _GROUPS = 8, 36
_RARE = -4.595
"""Bias of the maps of an untrained head: a probability of 0.01."""


class RegionClassHead(nn.Module):
    """Maps regions [N, C, 7, 7] to logits [N, K + 1], the background last."""

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(channels * BOX_SIZE * BOX_SIZE, hidden), nn.Linear(hidden, hidden)])
        self.fc_cls = nn.Linear(hidden, num_classes + 1)
        for layer in (*self.shared_fcs, self.fc_cls):
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.fc_cls.weight, std=0.01)

    def forward(self, regions: Tensor) -> Tensor:
        """Logits."""
        hidden = regions.flatten(1)
        for layer in self.shared_fcs:
            hidden = functional.relu(layer(hidden))
        logits: Tensor = self.fc_cls(hidden)
        return logits


class GridHead(nn.Module):
    """Maps regions [N, C, 14, 14] to logits [N, 9, 28, 28], a map for each point; see `heat_maps` for their order and their frames.

    Args:
        point_channels: channels of each point's features.
    """

    def __init__(self, channels: int, point_channels: int) -> None:
        super().__init__()
        wide = _POINTS * point_channels
        self.convs = nn.Sequential(*(_conv(channels if index == 0 else wide, wide, 2 if index == 0 else 1) for index in range(_CONVS)))
        self.deconv1 = nn.ConvTranspose2d(wide, wide, 4, stride=2, padding=1, groups=_POINTS)
        self.norm1 = nn.GroupNorm(_POINTS, wide)
        self.deconv2 = nn.ConvTranspose2d(wide, _POINTS, 4, stride=2, padding=1, groups=_POINTS)
        self.forder_trans, self.sorder_trans = (
            nn.ModuleList(nn.ModuleList(_transition(point_channels) for _ in neighbors(point)) for point in range(_POINTS))
            for _ in range(2)
        )
        self._initialize()

    def _initialize(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                else:
                    nn.init.normal_(layer.weight, std=0.001)
                assert layer.bias is not None
                nn.init.constant_(layer.bias, _RARE if layer is self.deconv2 else 0.0)

    def forward(self, regions: Tensor) -> Tensor:
        """The maps of features that points have exchanged."""
        return self._maps(self._exchanged(self.convs(regions)))

    def both(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The maps of features that points have exchanged, and of each point's own."""
        own = self.convs(regions)
        return self._maps(self._exchanged(own)), self._maps(own)

    def _exchanged(self, own: Tensor) -> Tensor:
        """Each point's features, and what its neighbors make of theirs and of those of their neighbors."""
        features = own.chunk(_POINTS, dim=1)
        first = _passed(features, features, self.forder_trans)
        return torch.cat(_passed(features, first, self.sorder_trans), dim=1)

    def _maps(self, features: Tensor) -> Tensor:
        maps: Tensor = self.deconv2(functional.relu(self.norm1(self.deconv1(features))))
        return maps


def neighbors(point: int) -> list[int]:
    """The points next to a point: left, above, below, right."""
    column, row = divmod(point, SIDE)
    around = ((column - 1, row), (column, row - 1), (column, row + 1), (column + 1, row))
    return [SIDE * x + y for x, y in around if 0 <= x < SIDE and 0 <= y < SIDE]


def _passed(features: Sequence[Tensor], sent: Sequence[Tensor], transitions: nn.ModuleList) -> list[Tensor]:
    """Each point's features, plus what its neighbors send it."""
    found = []
    for point, layers in enumerate(transitions):
        assert isinstance(layers, nn.ModuleList)
        total = features[point]
        for neighbor, layer in zip(neighbors(point), layers, strict=True):
            total = total + layer(sent[neighbor])
        found.append(total)
    return found


def _conv(channels: int, out: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, 3, stride=stride, padding=1)
    return nn.Sequential(OrderedDict(conv=conv, gn=nn.GroupNorm(_GROUPS, out), relu=nn.ReLU(inplace=True)))


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 5, padding=2, groups=channels), nn.Conv2d(channels, channels, 1))
