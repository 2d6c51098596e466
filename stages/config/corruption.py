"""How training images are corrupted: for both networks' training, or for the student's view only."""

from typing import Annotated

from pydantic import Field, field_validator

from deploy.accuracy.conditions import HELD_OUT, CorruptionName
from deploy.contract import Frozen

Severity = Annotated[int, Field(ge=1, le=5)]


def ordered(severity: tuple[int, int]) -> tuple[int, int]:
    """The two severities.

    Raises:
        ValueError: the first is above the second.
    """
    if severity[0] > severity[1]:
        raise ValueError(f"{list(severity)} begins above its end; write the least severity first")
    return severity


class StudentViewConfig(Frozen):
    """What the student sees in place of the clean view, which the teacher always sees; boxes and masks are the same.

    The idea is CD-FKD's, ICRA 2026, https://arxiv.org/abs/2603.16439, of which the abstract was read: probabilities, corruptions and
    factors are ours.
    """

    corrupt: float = Field(default=0.0, ge=0, le=1, description="probability that the student's view is corrupted")
    severity: tuple[Severity, Severity] = Field(default=(1, 3), description="least and greatest severity of a corruption, 1 to 5")
    kinds: tuple[CorruptionName, ...] = Field(
        default=HELD_OUT, min_length=1, description="corruptions; by default those that `mpc` does not measure, so that it stays honest"
    )
    downscale: float = Field(default=0.0, ge=0, le=1, description="probability that the student's view is shrunk and enlarged again")
    smallest: float = Field(default=0.5, gt=0, lt=1, description="smallest factor to shrink by; drawn from here to 1")

    _ordered = field_validator("severity")(ordered)

    @property
    def is_clean(self) -> bool:
        """Whether student and teacher see the same."""
        return not self.corrupt and not self.downscale
