"""A loss that compares pairs of levels, the student's features behind an adapter."""

from abc import ABC
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from stages.detectors import Outputs
from stages.losses import Loss, NetworkSide
from stages.losses.features.levels import LevelPair, channels, match, pairs
from stages.losses.features.options import Missing


@dataclass(frozen=True)
class Pairing:
    """Pairs of levels, finest first, with the strides of the student's and both sides' channels."""

    levels: tuple[LevelPair, ...]
    strides: tuple[int, ...]
    widths: tuple[tuple[int, int], ...]


def pairing(student: NetworkSide, teacher: NetworkSide, chosen: tuple[int, ...] | None, missing: Missing) -> Pairing:
    """The levels that learn, and from which, see `match`.

    Raises:
        ConfigError: no level can learn, or a chosen one is not among those that can.
    """
    levels = match(student, teacher, chosen, missing)
    return Pairing(levels, tuple(student.strides[pair.own] for pair in levels), tuple(channels(student, teacher, levels)))


def aligners(widths: Sequence[tuple[int, int]]) -> nn.ModuleList:
    """A 1x1 convolution for each level whose numbers of channels differ, the identity for the others."""
    return nn.ModuleList(nn.Identity() if own == other else nn.Conv2d(own, other, 1) for own, other in widths)


class LevelLoss(Loss, ABC):
    """Compares features at each pair of levels.

    adapters: the layers that map the student's channels to the teacher's, one per pair.
    """

    def __init__(self, paired: Pairing, adapters: nn.ModuleList) -> None:
        super().__init__()
        self.paired = paired
        self.adapters = adapters

    def adapted(self, student: Outputs, teacher: Outputs) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The stride, the student's adapted features and the teacher's features of each pair, both [B, C, H, W] in float32."""
        levels = pairs(student, teacher, self.paired.levels)
        for stride, adapter, (own, other) in zip(self.paired.strides, self.adapters, levels, strict=True):
            yield stride, adapter(own).float(), other
