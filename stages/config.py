"""The typed sections of pipeline.yaml that the stages read; pipeline/config.py joins them into the whole file.

Nothing here imports torch, so that a file is checked in milliseconds and on a machine without torch.
"""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from deploy import plugins
from deploy.contract import Frozen, Preprocessing
from deploy.runtimes import RangeMethod

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Plugin(Frozen):
    """`{name: ..., option: ...}`: the options stand flat beside the name; the plugin file's keyword-only parameters are their schema."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The options, defaults filled in."""
        return dict(self.model_extra or {})


class DetectorConfig(Plugin):
    """A file of stages/detectors with its options."""

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return plugins.fill("stages.detectors", value)


class LossConfig(Plugin):
    """A file of stages/losses with its options, times `weight`."""

    weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return plugins.fill("stages.losses", value, own=("weight",))


class DataConfig(Frozen):
    """`dataset` is a file of stages/datasets, whose options stand flat beside it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    dataset: str = "digits"
    preprocessing: Preprocessing = Preprocessing()
    strict: bool = Field(default=False, description="refuse data with any problem instead of leaving the object or image out")

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return plugins.fill("stages.datasets", value, own=("preprocessing", "strict"), key="dataset")

    @property
    def options(self) -> dict[str, Any]:
        """The data set's own options, defaults filled in."""
        return dict(self.model_extra or {})


class Flip(Frozen):
    """Mirror left to right with probability p."""

    name: Literal["flip"]
    p: Fraction = 0.5


class Scale(Frozen):
    """Zoom about the centre by a factor drawn from [min, max], padded or cropped to the input size."""

    name: Literal["scale"]
    min: float = Field(default=0.8, gt=0.05, le=8)
    max: float = Field(default=1.25, gt=0.05, le=8)

    @model_validator(mode="after")
    def _ordered(self) -> "Scale":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Crop(Frozen):
    """Cut a random window that keeps a part of an object (torchvision's RandomIoUCrop) with probability p."""

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


Augmentation = Annotated[Flip | Scale | Crop | Color | Mosaic, Field(discriminator="name")]


class TrainConfig(Frozen):
    """One training. `batch_size` is global: processes share it. `clip` is the gradient's largest norm, null for none."""

    epochs: int = Field(default=12, ge=0, description="0 leaves the detector as it was built or loaded")
    batch_size: int = Field(default=16, ge=1)
    accumulate: int = Field(
        default=1,
        ge=1,
        description="parts that a batch is run in, for less memory; each divides by its own objects",
    )
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    momentum: Fraction = Field(default=0.9, description="of SGD")
    betas: tuple[Fraction, Fraction] = Field(
        default=(0.9, 0.98), description="of AdamW; a second one near 1 never forgets the first steps of a short training"
    )
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    schedule: Literal["cosine", "multistep", "constant"] = "cosine"
    milestones: tuple[Fraction, ...] = (0.67, 0.92)
    gamma: Fraction = 0.1
    ema: float | None = Field(default=0.998, ge=0, lt=1)
    clip: Positive | None = 10.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    augment: tuple[Augmentation, ...] = ()
    workers: int | None = Field(default=None, ge=0, description="loader processes; null lets the machine decide")

    def num_steps(self, num_images: int) -> int:
        """Steps of the whole training; an epoch's incomplete last batch is left out."""
        return self.epochs * (num_images // min(self.batch_size, num_images))


class TeacherConfig(Frozen):
    """The large detector; with `weights` (a safetensors file or a checkpoint folder) it is loaded instead of trained."""

    detector: DetectorConfig
    train: TrainConfig = TrainConfig()
    weights: str | None = None


class StudentConfig(Frozen):
    """The small detector and its training, the same with and without the teacher."""

    detector: DetectorConfig
    train: TrainConfig = TrainConfig()
    weights: str | None = Field(default=None, description="weights to start from")


class DistillConfig(Frozen):
    """The losses that carry the teacher's knowledge."""

    losses: tuple[LossConfig, ...] = Field(min_length=1)
    warmup_steps: int = Field(
        default=150, ge=0, description="steps over which the losses' weight rises from 0, while the adapters are still random"
    )
    fade: Literal["none", "linear", "cosine"] = Field(default="none", description="how the losses' weight falls to 0 by the last step")

    teacher_precision: Literal["same", "fp32", "bf16", "fp16"] = Field(
        default="same", description="of the teacher's products; same is that of student.train.precision"
    )
    compile_teacher: bool = Field(
        default=False, description="make the teacher's forward with torch.compile: a minute once, faster steps on a GPU"
    )
    shares_every: int = Field(
        default=100, ge=0, description="steps between samples of each term's share of the gradient at the student's features; 0 for none"
    )

    @field_validator("losses")
    @classmethod
    def _distinct(cls, losses: tuple[LossConfig, ...]) -> tuple[LossConfig, ...]:
        for name, count in Counter(loss.name for loss in losses).items():
            if count > 1:
                raise ValueError(f"{name} stands {count} times; give each loss once")
        return losses


class ExportConfig(Frozen):
    """The fixed-shape graph. `candidates` of each level or class are kept before NMS, `max_detections` an image after it."""

    opset: int = Field(default=18, ge=18, le=23)
    dynamic_batch: bool = True
    max_detections: int = Field(default=100, ge=1, le=1000)
    candidates: int = Field(default=200, ge=1, le=5000)
    score_threshold: Fraction = 0.05
    iou_threshold: Fraction = 0.6
    proposals: int = Field(default=300, ge=1, le=2000, description="regions that a two-stage detector looks at")

    @property
    def decisions(self) -> "ExportConfig":
        """The same detections with the file's own options left at their defaults: all that judging a network in torch depends on."""
        return self.model_copy(update={"opset": 18, "dynamic_batch": True})


class TargetConfig(Plugin):
    """An engine to build: `runtime` is a file of deploy/runtimes, whose compile options stand flat beside it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    runtime: str
    precision: Literal["fp32", "fp16", "int8", "auto"] = "fp32"
    required: bool = Field(default=False, description="fail the run where this target cannot be measured")
    calibration_images: int = Field(default=128, ge=1, description="how many images int8 ranges are read from")
    calibration_split: str = Field(default="train", description="the split that these are spread over")
    ranges: RangeMethod = Field(default="min_max", description="how int8 ranges are read from them")
    max_map_drop: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="of int8 from the same engine in fp32, on `validation.split`; layers go back to float until it is met",
    )

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        own = ("name", "precision", "required", "calibration_images", "calibration_split", "ranges", "max_map_drop")
        hidden = ("precision", "calibration", "heads", "quantization")
        return plugins.fill("deploy.runtimes", value, own=own, key="runtime", function="compile", hidden=hidden)

    @model_validator(mode="after")
    def _limit_is_of_int8(self) -> Self:
        if self.max_map_drop is not None and self.precision not in {"int8", "auto"}:
            raise ValueError(
                f"max_map_drop limits what int8 may cost, but precision is {self.precision}; choose int8 or auto, or leave it out"
            )
        return self

    @property
    def is_judged(self) -> bool:
        """Whether building it takes a split to judge engines on."""
        return self.precision == "auto" or self.max_map_drop is not None


class LatencyConfig(Frozen):
    """How long to measure: at least `min_passes` and `min_seconds`, after `warmup` passes."""

    warmup: int = Field(default=20, ge=0)
    min_passes: int = Field(default=100, ge=1)
    min_seconds: float = Field(default=2.0, ge=0)
    threads: int | None = Field(default=None, ge=1, description="threads of the runtime; null for its own choice")
    max_seconds: float = Field(default=30.0, gt=0, description="of turns that two engines take where a gate compares their latencies")


class ValidationConfig(Frozen):
    """The split that engines are judged on, and the latency protocol."""

    split: str = "val"
    latency: LatencyConfig = LatencyConfig()
    parity_images: int = Field(default=200, ge=1, description="images of the split on which half precision is computed without a GPU")


class PackageConfig(Frozen):
    """What the model card says beside the figures."""

    license: str | None = None
    description: str = ""
