"""Section baseline: how long the student's network is trained without the teacher, to measure what distillation gains."""

import math
from typing import Literal

from pydantic import Field

from deploy.contract import Frozen
from stages.config.training import StudentConfig


class BaselineConfig(Frozen):
    """What the gain from distillation is measured against."""

    equal: Literal["steps", "cost", "both"] = Field(
        default="both",
        description="steps: a baseline with as many steps as the student; cost: one that trains for as long as the student; both: both",
    )
    max_minutes: float = Field(
        default=60.0,
        ge=0,
        description="with `both`, the baseline at equal cost is left out if its training is estimated to take more minutes than this",
    )

    def why_left_out(self, epochs: int, seconds: float) -> str | None:
        """Why the baseline at equal cost is not trained; None if it is.

        Args:
            epochs: how many it would be trained for.
            seconds: the estimate for all of them.
        """
        minutes = seconds / 60
        if self.equal == "cost" or minutes <= self.max_minutes:
            return None
        takes = f"training it for {epochs} epochs would take about {minutes:.{0 if minutes >= 10 else 1}f} minutes"
        return f"{takes}, and baseline.max_minutes is {self.max_minutes:g}; set it to {math.ceil(minutes)} to have it"


def stretched(student: StudentConfig, ratio: float) -> StudentConfig:
    """The student's training for `ratio` times as many epochs, rounded; never for fewer."""
    epochs = max(student.train.epochs, math.floor(student.train.epochs * ratio + 0.5))
    return student.model_copy(update={"train": student.train.model_copy(update={"epochs": epochs})})
