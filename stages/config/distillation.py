"""Section distill: the losses, their weights, their schedule."""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from deploy import plugins
from deploy.contract import Frozen
from stages.config.corruption import StudentViewConfig
from stages.config.plugin import Plugin
from stages.config.unlabelled import UnlabelledConfig

Weight = Annotated[float, Field(ge=0)] | Literal["auto"]
"""The factor on a loss; auto: found during the training, for each of its terms."""


class LossConfig(Plugin):
    """A file of stages/losses with its options, times `weight`; auto gives its terms the share that `DistillConfig.share` leaves them."""

    weight: Weight = "auto"

    @field_validator("weight", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "auto":
            raise ValueError(f'got "{value}"{plugins.suggest(value, ["auto"])}, allowed: a number of 0 or more, or auto')
        return value

    @property
    def enabled(self) -> bool:
        """Whether its weight is above 0, or found during the training."""
        return self.weight == "auto" or self.weight > 0

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return plugins.fill("stages.losses", value, own=tuple(cls.model_fields))


def _distinct(losses: tuple[LossConfig, ...]) -> tuple[LossConfig, ...]:
    for name, count in Counter(loss.name for loss in losses).items():
        if count > 1:
            raise ValueError(f"{name} is listed {count} times; list each loss once")
    return losses


Losses = Annotated[tuple[LossConfig, ...], AfterValidator(_distinct)]
"""Losses of which none is listed twice."""


class DistillConfig(Frozen):
    """The losses that carry the teacher's knowledge."""

    losses: Losses = Field(min_length=1)
    warmup_steps: int = Field(
        default=150, ge=0, description="steps over which the losses' weights rise from 0, while the adapters are still random"
    )
    fade: Literal["none", "linear", "cosine"] = Field(default="none", description="how the losses' weights fall to 0 by the last step")
    share: float = Field(
        default=0.7,
        gt=0,
        lt=1,
        description="share of the gradient at the student's features that all losses with `weight: auto` get together, once warmed up",
    )
    teacher_precision: Literal["same", "fp32", "bf16", "fp16"] = Field(
        default="same", description="precision of the teacher's products; same follows student.train.precision"
    )
    compile_teacher: bool = Field(
        default=False, description="compile the teacher's forward pass with torch.compile: takes a minute once, makes steps faster on a GPU"
    )
    shares_every: int = Field(
        default=100, ge=0, description="steps between samples of each term's share of the gradient at the student's features; 0: no samples"
    )

    student_view: StudentViewConfig = Field(
        default=StudentViewConfig(), description="corruption of the student's view; the teacher sees the clean one"
    )
    unlabelled: UnlabelledConfig | None = Field(
        default=None, description="what is learned from the images of `data.unlabelled`; null: nothing"
    )

    @property
    def labeled(self) -> "DistillConfig":
        """The same without unlabeled images."""
        return self.model_copy(update={"unlabelled": None})

    @property
    def from_unlabelled(self) -> UnlabelledConfig | None:
        """What is learned from unlabeled images; None if nothing is."""
        return self.unlabelled if self.unlabelled is not None and self.unlabelled.is_used else None

    @property
    def taught(self) -> dict[str, str] | None:
        """The teacher's name of each of the data's classes if it was trained for more; None if it has the data's."""
        return None if self.unlabelled is None else self.unlabelled.taught
