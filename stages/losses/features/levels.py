"""Which levels of a student's pyramid learn from which of its teacher's: levels are matched by stride, never by index."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from deploy.errors import ConfigError
from stages.detectors import Outputs
from stages.losses import NetworkSide
from stages.losses.features.options import Missing

Adapter = Literal["conv1x1", "conv3x3", "none"]


@dataclass(frozen=True)
class LevelPair:
    """Indices of a student's level and of the teacher's level that it learns from."""

    own: int
    other: int


def match(
    student: NetworkSide, teacher: NetworkSide, chosen: tuple[int, ...] | None = None, missing: Missing = "skip"
) -> tuple[LevelPair, ...]:
    """One pair for each of the student's levels that learns, finest first; of levels with equal stride the first is used.

    Args:
        chosen: strides of the student's levels that learn; None: all that can.
        missing: what happens to a level whose stride the teacher lacks: it is left out, or learns from the nearest level, resized.

    Raises:
        ConfigError: no level can learn, or a chosen one is not among those that can.
    """
    strides = tuple(dict.fromkeys(student.strides))
    able = strides if missing == "interpolate" else tuple(stride for stride in strides if stride in teacher.strides)
    if not able:
        raise ConfigError(
            f"distill.losses: the student's levels have strides {student.strides}, the teacher's {teacher.strides}; "
            "use detectors with at least one stride in common, or set missing: interpolate in the loss"
        )
    if chosen is not None and (not chosen or not set(chosen) <= set(able)):
        levels = "levels of the student" if missing == "interpolate" else "levels of both detectors"
        raise ConfigError(f"distill.losses: strides {chosen} are not all {levels}; choose from {able}")
    learning = [stride for stride in able if chosen is None or stride in chosen]
    return tuple(LevelPair(student.strides.index(stride), _nearest(teacher.strides, stride)) for stride in learning)


def channels(student: NetworkSide, teacher: NetworkSide, levels: Sequence[LevelPair]) -> list[tuple[int, int]]:
    """Both sides' channels at each pair of levels."""
    return [(student.channels[pair.own], teacher.channels[pair.other]) for pair in levels]


def adapters(kind: Adapter, widths: Sequence[tuple[int, int]]) -> nn.ModuleList:
    """The layers that map each level's student channels to the teacher's; none requires equal numbers of channels.

    Raises:
        ConfigError: the kind is none, and the numbers of channels differ.
    """
    if kind != "none":
        size = int(kind[-1])
        return nn.ModuleList(nn.Conv2d(own, other, size, padding=size // 2) for own, other in widths)
    if any(own != other for own, other in widths):
        own, other = (tuple(side) for side in zip(*widths, strict=True))
        raise ConfigError(
            f"adapter: none requires equal channels, but the student's levels have {own}, the teacher's {other}; choose conv1x1"
        )
    return nn.ModuleList(nn.Identity() for _ in widths)


def pairs(student: Outputs, teacher: Outputs, levels: Sequence[LevelPair]) -> Iterator[tuple[Tensor, Tensor]]:
    """Student and teacher features [B, C, H, W] in float32 at each pair; the teacher's detached, with the student's height and width."""
    for pair in levels:
        own = student.pyramid[pair.own].float()
        yield own, resized(teacher.pyramid[pair.other].detach().float(), own.shape[-2], own.shape[-1])


def rows(features: Tensor) -> Tensor:
    """Features [B, C, H, W] as [B, H * W, C] in float32, a view if they are in float32 and channels last."""
    return features.flatten(2).transpose(1, 2).float()


def _nearest(strides: tuple[int, ...], wanted: int) -> int:
    """The index of the first stride at the smallest ratio; of two equally near ones the finer."""
    return min(range(len(strides)), key=lambda index: (abs(math.log2(strides[index] / wanted)), strides[index], index))


def resized(features: Tensor, height: int, width: int) -> Tensor:
    """Averages areas to shrink the features, interpolates bilinearly to enlarge them."""
    if tuple(features.shape[-2:]) == (height, width):
        return features
    if height <= features.shape[-2] and width <= features.shape[-1]:
        return functional.adaptive_avg_pool2d(features, (height, width))
    return functional.interpolate(features, size=(height, width), mode="bilinear", align_corners=False)
