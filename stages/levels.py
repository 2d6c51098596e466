"""Which levels of a student's pyramid learn from which of its teacher's: those of equal stride."""

from collections.abc import Iterator

from torch import Tensor

from deploy.errors import ConfigError
from stages.detectors import Outputs
from stages.losses import Pyramid


def common_strides(student: Pyramid, teacher: Pyramid, chosen: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """The strides that both pyramids have, finest first, or those of them that are chosen.

    Raises:
        ConfigError: there is none, or a chosen one is not among them.
    """
    common = tuple(stride for stride in student.strides if stride in teacher.strides)
    if common and chosen is not None:
        if not chosen or not set(chosen) <= set(common):
            raise ConfigError(f"distill: strides {chosen} are not all levels of both detectors; choose from {common}")
        return tuple(stride for stride in common if stride in chosen)
    if not common:
        raise ConfigError(
            f"distill: the student's levels have strides {student.strides}, the teacher's {teacher.strides}; "
            "give the two detectors at least one stride in common"
        )
    return common


def channels(pyramid: Pyramid, strides: tuple[int, ...]) -> list[int]:
    """The pyramid's channels at these strides."""
    return [pyramid.channels[pyramid.strides.index(stride)] for stride in strides]


def pairs(student: Outputs, teacher: Outputs, strides: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Student and teacher features [B, C, H, W] in float32 at each stride; the teacher's detached."""
    for stride in strides:
        own = student.pyramid[student.strides.index(stride)]
        yield own.float(), teacher.pyramid[teacher.strides.index(stride)].detach().float()
