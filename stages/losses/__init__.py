"""The distillation loss contract; every other file of this folder is one loss, its file name the name in pipeline.yaml.

A file defines `build(student: Pyramid, teacher: Pyramid, *, <options>) -> Loss`. Its keyword-only parameters are the options.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from stages.detectors import Outputs, Target


@dataclass(frozen=True)
class Pyramid:
    """Strides and channels of a detector's levels, finest first."""

    strides: tuple[int, ...]
    channels: tuple[int, ...]


class Loss(nn.Module, ABC):
    """Named terms from both networks' outputs; its parameters (adapters) are trained beside the student, never shipped."""

    @abstractmethod
    def forward(self, student: Outputs, teacher: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalar terms by name, to be summed. The teacher's tensors carry no gradient."""
