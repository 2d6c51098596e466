"""A head that predicts sets of points, and the boxes that they stand for.

Yang et al., "RepPoints: Point Set Representation for Object Detection", ICCV 2019, https://arxiv.org/abs/1904.11490.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.detectors.backbones.deformable import DeformableKernel, Places, convolve
from stages.detectors.dense.model import start_rare, tower

_COORDINATES = 18
"""Of nine points (y, x): as many as a 3 x 3 kernel reads, which is why the same points tell where."""

_OFFSET_SHARE, _MOMENT_SHARE = 0.1, 0.01
"""Of the gradient, what reaches points through the places that they make others read, and the box's scale."""


class PointsHead(nn.Module):
    """Two towers of convolutions, shared by all levels; nine points, and classes and better points from what is found at the nine.

    A point is (y, x) in strides from its position's own place, the corner (x * s, y * s).

    Args:
        norm: whether each convolution of the towers is followed by group normalization; without it they have biases.
    """

    base: Tensor

    def __init__(self, channels: int, num_classes: int, num_convs: int, *, norm: bool) -> None:
        super().__init__()
        self.cls_convs = tower(channels, num_convs, norm=norm)
        self.reg_convs = tower(channels, num_convs, norm=norm)
        self.start_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.start_points = nn.Conv2d(channels, _COORDINATES, 1)
        self.cls_deform = DeformableKernel(channels, channels)
        self.cls_logits = nn.Conv2d(channels, num_classes, 1)
        self.reg_deform = DeformableKernel(channels, channels)
        self.points = nn.Conv2d(channels, _COORDINATES, 1)
        self.moment = nn.Parameter(torch.zeros(2))
        steps = torch.arange(-1.0, 2.0)
        self.register_buffer("base", torch.cartesian_prod(steps, steps).reshape(1, -1, 1, 1), persistent=False)
        start_rare(self, self.cls_logits)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """In rows of all levels, position by position: "cls_logits" [B, N, K], "points" and "start" [B, N, 18]."""
        levels = [self._level(level) for level in features]
        rows = [{name: values.permute(0, 2, 3, 1).flatten(1, 2) for name, values in level.items()} for level in levels]
        return {name: torch.cat([level[name] for level in rows], dim=1) for name in rows[0]}

    def _level(self, features: Tensor) -> dict[str, Tensor]:
        for_classes, for_boxes = self.cls_convs(features), self.reg_convs(features)
        start = self.start_points(torch.relu(self.start_conv(for_boxes)))
        places = Places(start, with_share(start.float(), _OFFSET_SHARE) - self.base)
        kernels = self.cls_deform.weight, self.reg_deform.weight
        for_classes, for_boxes = (torch.relu(found) for found in convolve((for_classes, for_boxes), places, kernels))
        points = self.points(for_boxes).float() + start.detach().float()
        return {"cls_logits": self.cls_logits(for_classes), "points": points, "start": start}

    def boxes(self, points: Tensor) -> Tensor:
        """The boxes (x1, y1, x2, y2) [..., 4] of points [..., 18]: their mean and their standard deviation, times a learned scale."""
        y, x = points[..., 0::2], points[..., 1::2]
        middle = torch.stack((x.mean(dim=-1), y.mean(dim=-1)), dim=-1)
        half = torch.stack((x.std(dim=-1), y.std(dim=-1)), dim=-1) * with_share(self.moment, _MOMENT_SHARE).exp()
        return torch.cat((middle - half, middle + half), dim=-1)


def with_share(values: Tensor, share: float) -> Tensor:
    """The values, bit by bit, with this share of their gradient."""
    return values.detach() + share * (values - values.detach()) if torch.is_grad_enabled() else values
