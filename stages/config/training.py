"""Sections teacher and student: detectors and their training.

Nothing here imports torch: a file is checked in milliseconds, also on a machine without torch.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from deploy.contract import Frozen
from stages.config.augmentations import Augmentation, Corrupt
from stages.config.plugin import DetectorConfig, Fraction, Positive, WeightsPath
from stages.config.unlabelled import SelfTrainingConfig

_DecayRate = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Frozen):
    """One training. `batch_size` is global: processes share it. `clip` is the gradient's maximum norm; null: no limit."""

    epochs: int = Field(default=12, ge=0, description="0 leaves the detector as it was built or loaded")
    batch_size: int = Field(default=16, ge=1)
    accumulate: int = Field(
        default=1,
        ge=1,
        description="number of parts in which a batch is processed, to save memory; each divides by its own number of objects",
    )
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    momentum: Fraction = Field(default=0.9, description="momentum of SGD")
    betas: tuple[_DecayRate, _DecayRate] = Field(
        default=(0.9, 0.98),
        description="decay rates of AdamW, each 0 to below 1; with a second one near 1, a short training never forgets its first steps",
    )
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    milestones: tuple[Fraction, ...] = (0.67, 0.92)
    gamma: Fraction = 0.1
    ema: float | None = Field(default=0.998, ge=0, lt=1)
    clip: Positive | None = 10.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = Field(
        default=False,
        description="torch.compile compiles the backbone and the heads, which takes minutes once and pays off in long trainings on a GPU",
    )
    augment: tuple[Augmentation, ...] = ()
    workers: int | None = Field(default=None, ge=0, description="number of loader processes; null: chosen for the machine")

    @field_validator("augment")
    @classmethod
    def _one_corrupt(cls, augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if sum(isinstance(one, Corrupt) for one in augment) > 1:
            raise ValueError("corrupt is listed more than once; list it once, with all kinds")
        return augment

    def num_steps(self, num_images: int) -> int:
        """Steps of the whole training; an epoch's incomplete last batch is dropped."""
        return self.epochs * (num_images // min(self.batch_size, num_images))


class TeacherConfig(Frozen):
    """The large detector; with `weights` (a safetensors file or a checkpoint folder) it is loaded instead of trained."""

    detector: DetectorConfig
    train: TrainConfig = TrainConfig()
    weights: WeightsPath | None = None
    unlabelled: SelfTrainingConfig | None = Field(
        default=None, description="what is learned from the images of `data.unlabelled`; null: nothing"
    )

    @property
    def labeled(self) -> "TeacherConfig":
        """The same without unlabeled images."""
        return self.model_copy(update={"unlabelled": None})

    @property
    def from_unlabelled(self) -> SelfTrainingConfig | None:
        """What is learned from unlabeled images; None if nothing is."""
        return self.unlabelled if self.unlabelled is not None and self.unlabelled.is_used else None

    @model_validator(mode="after")
    def _can_label(self) -> "TeacherConfig":
        if self.from_unlabelled is not None and self.weights is not None:
            raise ValueError("weights are loaded, not trained, so unlabelled has no effect; leave out one of the two")
        if self.from_unlabelled is not None and self.from_unlabelled.labels == "own" and not self.train.ema:
            raise ValueError(
                "unlabelled needs averaged weights, which label the images; set train.ema, such as 0.998, or unlabelled.labels to first"
            )
        return self


class StudentConfig(Frozen):
    """The small detector and its training, the same for the student and the baseline."""

    detector: DetectorConfig
    train: TrainConfig = TrainConfig()
    weights: WeightsPath | None = Field(default=None, description="initial weights")
