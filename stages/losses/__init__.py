"""The distillation loss contract; every other file in this folder is one loss, and its file name is the name in pipeline.yaml.

A file defines `build(student: Pyramid, teacher: Pyramid, *, <options>) -> Loss`. Its keyword-only parameters are the options.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from stages.detectors import Outputs, Target


@dataclass(frozen=True)
class Pyramid:
    """Strides and channels of a detector's levels, finest first."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]


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
