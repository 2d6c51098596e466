"""The augmentations of training images.

Nothing here imports torch: a file is checked in milliseconds, also on a machine without torch.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from deploy.accuracy.conditions import HELD_OUT, CorruptionName
from deploy.contract import Frozen
from stages.config.corruption import Severity, ordered
from stages.config.plugin import Fraction


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
    """Join four images into one with probability p, before all other augmentations."""

    name: Literal["mosaic"]
    p: Fraction = 0.5


class Corrupt(Frozen):
    """Corrupt the view, after all other augmentations, with probability p, by one of `kinds` at a severity drawn from [min, max].

    Independently of that, shrink it and enlarge it again with probability `downscale`.
    """

    name: Literal["corrupt"]
    p: Fraction = 0.5
    severity: tuple[Severity, Severity] = Field(default=(1, 3), description="least and greatest severity, 1 to 5")
    kinds: tuple[CorruptionName, ...] = Field(
        default=HELD_OUT, min_length=1, description="corruptions; by default those that `mpc` does not measure, so that it stays honest"
    )
    downscale: Fraction = Field(default=0.0, description="probability that the view is shrunk and enlarged again")
    smallest: float = Field(default=0.5, gt=0, lt=1, description="smallest factor to shrink by; drawn from here to 1")

    _ordered = field_validator("severity")(ordered)


Augmentation = Annotated[Flip | Scale | Crop | Color | Mosaic | Corrupt, Field(discriminator="name")]
