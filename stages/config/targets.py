"""Sections export, targets, validation and package: what is built, measured and shipped."""

from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from deploy import plugins, runtimes
from deploy.contract import Frozen
from deploy.precision import RangeMethod, Recipe
from stages.config.int8 import FinetuneConfig, Int8Config
from stages.config.plugin import Fraction, Plugin
from stages.config.training import TrainConfig


class ExportConfig(Frozen):
    """The fixed-shape graph. It keeps `candidates` per level or class before NMS and `max_detections` per image after it."""

    opset: int = Field(default=18, ge=18, le=23)
    dynamic_batch: bool = True
    max_detections: int = Field(default=100, ge=1, le=1000)
    candidates: int = Field(default=200, ge=1, le=5000)
    score_threshold: Fraction = 0.05
    iou_threshold: Fraction = 0.6
    nms: Literal["per_class", "agnostic"] = Field(
        default="per_class", description="whether a box suppresses only overlapping boxes of its class, or of all classes"
    )
    decode: Literal["graph", "host"] = Field(
        default="graph", description="whether the graph decodes boxes and suppresses overlaps, or returns raw outputs for the host to do it"
    )
    proposals: int = Field(default=300, ge=1, le=2000, description="number of regions passed to the second stage of a two-stage detector")

    @property
    def decisions(self) -> "ExportConfig":
        """The same detections, with the options of the file at their defaults: everything that judging a network in torch depends on."""
        return self.model_copy(update={"opset": 18, "dynamic_batch": True, "decode": "graph"})


class TargetConfig(Plugin):
    """An engine to build: `runtime` is a file of deploy/runtimes, or `auto`; compile options are written next to it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=150)
    runtime: str
    precision: Literal["fp32", "fp16", "int8", "auto"] = "fp32"
    required: bool = Field(default=False, description="fail the run if this target cannot be measured")
    calibration_images: int = Field(default=128, ge=1, description="number of images from which int8 ranges are read")
    calibration_split: str = Field(default="train", description="split from which these images are taken, evenly spread")
    ranges: RangeMethod = Field(default="min_max", description="method for reading int8 ranges")
    max_map_drop: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="mAP that int8 may lose against the same engine in fp32, on `validation.split`; layers return to float until it is met",
    )
    int8: Int8Config | None = Field(default=None, description="training for int8, see below; null: post-training int8")

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: Any) -> Any:
        return runtimes.fill(value, tuple(cls.model_fields))

    @model_validator(mode="after")
    def _limit_is_of_int8(self) -> Self:
        if self.max_map_drop is not None and not self.needs_calibration:
            raise ValueError(
                f"max_map_drop limits how much mAP int8 may lose, but precision is {self.precision}; choose int8 or auto, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _finetuned_for_one_kind(self) -> Self:
        if self.finetunes and (self.precision != "int8" or self.runtime == runtimes.AUTO):
            given = f"this target has runtime {self.runtime} and precision {self.precision}"
            raise ValueError(f"int8.finetune trains for one runtime's int8, but {given}; name the runtime, and choose precision int8")
        if self.finetunes and self._recipe is None:
            raise ValueError(f"int8.finetune: runtime {self.runtime} has no int8; choose a different runtime")
        return self

    @property
    def _recipe(self) -> Recipe | None:
        recipe: Recipe | None = getattr(plugins.load(runtimes.PACKAGE, self.runtime), "INTEGERS", None)
        return recipe

    @property
    def finetunes(self) -> bool:
        """Whether the student is trained for this target's int8."""
        return self.int8 is not None and self.int8.finetune

    def finetuning(self, student: TrainConfig) -> FinetuneConfig | None:
        """The training for this target's int8, given the student's own; None if there is none."""
        if self.int8 is None or not self.finetunes:
            return None
        recipe = self._recipe
        assert recipe is not None, "checked when the file was read"
        return FinetuneConfig(
            **asdict(recipe.for_training),
            ranges=self.ranges,
            calibration_images=self.calibration_images,
            calibration_split=self.calibration_split,
            train=self.int8.training(student),
            weight=self.int8.weight,
            losses=self.int8.own_losses,
        )

    @property
    def is_chosen(self) -> bool:
        """Whether several engines are built, measured and compared, and the fastest is taken."""
        return "auto" in {self.runtime, self.precision}

    @property
    def needs_calibration(self) -> bool:
        """Whether building it requires images to read int8 ranges from."""
        return self.precision in {"int8", "auto"}

    @property
    def is_judged(self) -> bool:
        """Whether building it judges engines on a split, which a choice of the precision and a limit require."""
        return self.is_chosen or self.max_map_drop is not None


class LatencyConfig(Frozen):
    """How long to measure: all engines alternate until each has at least `min_passes` and `min_seconds`, after `warmup` passes."""

    warmup: int = Field(default=20, ge=0)
    min_passes: int = Field(default=100, ge=1)
    min_seconds: float = Field(default=2.0, ge=0)
    ratio_width: float = Field(
        default=0.03,
        gt=0,
        description="measuring also goes on until every ratio's 95% interval is at most this share of it wide",
    )
    budget_seconds: float = Field(
        default=45.0, gt=0, description="seconds after which measuring all engines ends anyway, once each has `min_passes`"
    )
    threads: int | None = Field(default=None, ge=1, description="threads of the runtime; null: its own choice")
    max_seconds: float = Field(default=30.0, gt=0, description="seconds that comparing the latencies of two engines may take")


class ValidationConfig(Frozen):
    """The split that engines are judged on, and the latency protocol."""

    split: str = "val"
    latency: LatencyConfig = LatencyConfig()
    parity_images: int = Field(
        default=200, ge=1, description="number of images on which half precision is computed without a GPU, which is slow"
    )


class PackageConfig(Frozen):
    """Contents of the model card in addition to the figures."""

    license: str | None = None
    description: str = ""
