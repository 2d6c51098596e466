"""The distillation loss contract; every other file in this folder is one loss, and its file name is the name in pipeline.yaml.

A file defines `build(student: NetworkSide, teacher: NetworkSide, *, <options>) -> Loss`, whose keyword-only parameters are the
options, and two constants, literal tuples that can be read from its source: `READS: tuple[Reading, ...]`, what both networks must give,
"teacher_head" the teacher and "targets" the data; and `INVARIANT_TO: tuple[Invariance, ...]`, what does not change its value.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from deploy.contract import MaskFrame
from stages.detectors import HeadShape, Kind, Outputs, Reading, Target

Invariance = Literal["batch", "size", "scale", "channel_scale"]
"""More images alike; more positions alike; the teacher's levels, or even each of their channels, times a number."""


@dataclass(frozen=True)
class NetworkSide:
    """What a loss knows of one of its two networks when it is built.

    detector: name in pipeline.yaml.
    strides, channels: of the pyramid's levels, finest first.
    gives: what can be read of its outputs. head: what is known of its head.
    mask_frame: what a mask covers, "box" or "image"; None for detectors without masks.
    """

    detector: str
    kind: Kind
    num_classes: int
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    gives: tuple[Reading, ...]
    mask_frame: MaskFrame | None
    head: HeadShape = field(default_factory=HeadShape)


class Loss(nn.Module, ABC):
    """Named terms from both networks' outputs; its parameters (adapters) are trained with the student, never shipped.

    weights: the factor on each term, by its name or the part of it before "/"; 1 for a term that is not listed.
    """

    weights: Mapping[str, float] = {}

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalar terms without their weights; a term of one level is named <term>/<stride>. The teacher's tensors carry no gradient."""

    def weight(self, term: str) -> float:
        """The factor on a term of `forward`."""
        return self.weights.get(term, self.weights.get(term.partition("/")[0], 1.0))
