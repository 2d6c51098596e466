"""Sections teacher and student: detectors, their training and its augmentations.

Nothing here imports torch: a file is checked in milliseconds, also on a machine without torch.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from deploy.accuracy.conditions import HELD_OUT, CorruptionName
from deploy.contract import Frozen
from stages.config.corruption import Severity, ordered
from stages.config.plugin import DetectorConfig, Fraction, Positive


class Flip(Frozen):
    """Mirror left to right with probability p."""

    name: Literal["flip"]
    p: Fraction = 0.5


class Scale(Frozen):
    """Zoom about the center by a factor drawn from [min, max], padded or cropped to the input size."""

    name: Literal["scale"]
    min: float = Field(default=0.8, gt=0.05, le=8)
    max: float = Field(default=1.25, gt=0.05, le=8)

    @model_validator(mode="after")
    def _ordered(self) -> "Scale":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Crop(Frozen):
    """Cut out a random window that keeps a part of an object (torchvision's RandomIoUCrop) with probability p."""

    name: Literal["crop"]
    p: Fraction = 0.5
    min_scale: float = Field(default=0.5, gt=0, le=1)


class Color(Frozen):
    """Change brightness, contrast, saturation and hue by up to these fractions."""

    name: Literal["color"]
    brightness: float = Field(default=0.2, ge=0, le=1)
    contrast: float = Field(default=0.2, ge=0, le=1)
    saturation: float = Field(default=0.2, ge=0, le=1)
    hue: float = Field(default=0.02, ge=0, le=0.5)


class Mosaic(Frozen):
    """Join four images into one with probability p."""

    name: Literal["mosaic"]
    p: Fraction = 0.5


class Corrupt(Frozen):
    """Corrupt the view, after all other augmentations, with probability p, by one of `kinds` at a severity drawn from [min, max]."""

    name: Literal["corrupt"]
    p: Fraction = 0.5
    severity: tuple[Severity, Severity] = Field(default=(1, 3), description="least and greatest severity, 1 to 5")
    kinds: tuple[CorruptionName, ...] = Field(
        default=HELD_OUT, min_length=1, description="corruptions; by default those that `mpc` does not measure, so that it stays honest"
    )

    _ordered = field_validator("severity")(ordered)


Augmentation = Annotated[Flip | Scale | Crop | Color | Mosaic | Corrupt, Field(discriminator="name")]


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
    betas: tuple[Fraction, Fraction] = Field(
        default=(0.9, 0.98), description="decay rates of AdamW; with a second one near 1, a short training never forgets its first steps"
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
    weights: str | None = None


class StudentConfig(Frozen):
    """The small detector and its training, the same for the student and the baseline."""

    detector: DetectorConfig
    train: TrainConfig = TrainConfig()
    weights: str | None = Field(default=None, description="initial weights")
