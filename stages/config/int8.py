"""Section int8 of a target: training the student for int8, and what such a training depends on."""

import math
from typing import Any

from pydantic import Field

from deploy.contract import Frozen
from deploy.precision import RangeMethod, Recipe
from stages.config.distillation import LossConfig, Losses
from stages.config.plugin import Positive
from stages.config.training import TrainConfig

_SHARE_OF_EPOCHS, _SHARE_OF_RATE = 0.1, 0.01
"""Of the student's own training: the network is nearly right already, and large steps would undo what it knows."""

_WARMUP = 50
_OWN_LOSS = {"name": "pearson", "weight": 1.0}


class Int8Config(Frozen):
    """Whether the student is trained for int8 before a target's engine is built, and how; the trained network is kept if it is better."""

    finetune: bool = Field(default=False, description="train for this target's kind of int8")
    epochs: int | None = Field(default=None, ge=0, description="null: a tenth of the student's, rounded up; 0 trains nothing")
    learning_rate: Positive | None = Field(default=None, description="peak; null: a hundredth of the student's")
    weight: float = Field(default=1.0, ge=0, description="factor on the whole loss; 0 trains nothing")
    losses: Losses | None = Field(
        default=None,
        description="losses against the student in fp32, in addition to those of `distill` against the teacher; null: `pearson`; []: none",
    )

    def training(self, student: TrainConfig) -> TrainConfig:
        """The student's training, shorter, gentler, in fp32 and without averaged weights."""
        epochs = math.ceil(student.epochs * _SHARE_OF_EPOCHS) if self.epochs is None else self.epochs
        rate = student.learning_rate * _SHARE_OF_RATE if self.learning_rate is None else self.learning_rate
        own: dict[str, Any] = {"epochs": epochs if self.weight else 0, "learning_rate": rate, "weight_decay": 0.0, "ema": None}
        own |= {"warmup_steps": min(student.warmup_steps, _WARMUP), "precision": "fp32", "compile": False}
        return TrainConfig.model_validate(student.model_dump() | own)

    @property
    def own_losses(self) -> tuple[LossConfig, ...]:
        """The losses against the student in fp32."""
        return (LossConfig.model_validate(_OWN_LOSS),) if self.losses is None else self.losses


class FinetuneConfig(Frozen):
    """Everything of a target that its training for int8 depends on: targets with equal ones share one training."""

    signed_activations: bool
    quantize_bias: bool
    quantize_outputs: bool
    narrow_weights: bool
    quantize_joins: bool
    ranges: RangeMethod
    calibration_images: int
    calibration_split: str
    train: TrainConfig
    weight: float
    losses: tuple[LossConfig, ...]

    @property
    def recipe(self) -> Recipe:
        """The kind of int8 that is trained for."""
        names = ("signed_activations", "quantize_bias", "quantize_outputs", "narrow_weights", "quantize_joins")
        return Recipe(**{name: getattr(self, name) for name in names})
