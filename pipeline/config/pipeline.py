"""pipeline.yaml as one typed value."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from deploy.comparison import metrics
from deploy.contract import Frozen
from deploy.plugins import OptionRole, suggest
from deploy.runtimes import AUTO, is_raw_only
from deploy.serving.options import ServeConfig
from pipeline.config import unlabelled
from pipeline.config.diagnose import Misfit, explain, refuse_coerced
from pipeline.config.document import read_document
from stages.config import (
    BaselineConfig,
    CompareConfig,
    DataConfig,
    DetectorConfig,
    DistillConfig,
    ExportConfig,
    GateConfig,
    LossConfig,
    PackageConfig,
    RobustnessConfig,
    StudentConfig,
    TargetConfig,
    TeacherConfig,
    ValidationConfig,
)

REFERENCES = ("teacher", "baseline")
"""Networks that are measured as engines in addition to the targets."""

FLOAT = "float"
"""The student's graph as exported, in fp32: every target's engine is compared with it."""

TAKEN = (*REFERENCES, "student", FLOAT)
"""Names that no target may have."""


class PluginSection(NamedTuple):
    """A section with options from plugins: their package, the key that names one, the function whose parameters are the options.

    `any_of_them` is the name that stands for all plugins, any of which may be used; null if there is none.
    """

    package: str
    key: str
    function: str = "build"
    any_of_them: str | None = None


PLUGIN_SECTIONS: Mapping[type[BaseModel], PluginSection] = {
    DataConfig: PluginSection("stages.datasets", "dataset"),
    DetectorConfig: PluginSection("stages.detectors", "name"),
    LossConfig: PluginSection("stages.losses", "name"),
    TargetConfig: PluginSection("deploy.runtimes", "runtime", "compile", AUTO),
}

_LACKING = {
    **{(metric, "cost"): "steps" for metric in ("gain_map", "gain_mask_map")},
    **{(metric, "steps"): "cost" for metric in ("gain_map_equal_cost", "gain_mask_map_equal_cost")},
}
"""What a metric of gates needs and a run with this `baseline.equal` does without."""

FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class PipelineConfig(Frozen):
    """The complete configuration of a run."""

    name: str = Field(pattern=FOLDER_NAME, max_length=100, description="results go to runs/<name>")
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="device on which networks are trained")
    data: DataConfig
    teacher: TeacherConfig
    student: StudentConfig
    distill: DistillConfig
    baseline: BaselineConfig = BaselineConfig()
    compare: CompareConfig = CompareConfig()
    export: ExportConfig = ExportConfig()
    targets: tuple[TargetConfig, ...] = Field(min_length=1)
    validation: ValidationConfig = ValidationConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    gates: tuple[GateConfig, ...] = ()
    package: PackageConfig = PackageConfig()
    serve: ServeConfig = ServeConfig()

    @property
    def uses_unlabelled(self) -> bool:
        """Whether any network learns from images without labels."""
        return self.teacher.from_unlabelled is not None or self.distill.from_unlabelled is not None

    @property
    def learns_from_labels(self) -> bool:
        """Whether the teacher or the student learns from the labels of training images; a baseline always does."""
        own, teacher = self.distill.from_unlabelled, self.teacher
        return own is None or not own.only or (teacher.weights is None and teacher.train.epochs > 0)

    @property
    def finetunes(self) -> bool:
        """Whether the student is trained for the int8 of any target."""
        return any(target.finetunes for target in self.targets)

    def gates_of(self, target: str) -> tuple[GateConfig, ...]:
        """The gates that judge a target: those that name it and those that name none."""
        return tuple(gate for gate in self.gates if gate.target in (None, target))

    def unmet(self, splits: Iterable[str], classes: Sequence[str]) -> list[str]:
        """A line for each target whose int8 ranges would be read from a split that data with images in these does not have.

        Likewise for each gate on a class that is none of these.
        """
        known = sorted(splits)
        metric = {index: gate.metric for index, gate in enumerate(self.gates) if gate.metric.startswith(metrics.OF_CLASS)}
        named = {index: one.removeprefix(metrics.OF_CLASS) for index, one in metric.items()}
        asked = {index: target.calibration_split for index, target in enumerate(self.targets) if target.needs_calibration}
        return [
            f"targets.{index}.calibration_split: no split '{split}'{suggest(split, known)}: the data has {', '.join(known)}"
            for index, split in asked.items()
            if split not in known
        ] + [
            f"gates.{index}.metric: no class '{name}'{suggest(name, classes)}: the data has {', '.join(classes)}"
            for index, name in named.items()
            if name not in classes
        ]

    @field_validator("targets")
    @classmethod
    def _distinct(cls, targets: tuple[TargetConfig, ...]) -> tuple[TargetConfig, ...]:
        for name, count in Counter(target.name for target in targets).items():
            if count > 1:
                raise ValueError(f"{count} targets are called {name}; give each its own name")
            if name in TAKEN:
                raise ValueError(f"a target cannot be called {name}, which is a reserved name; rename it")
        return targets

    @field_validator("validation")
    @classmethod
    def _unseen(cls, validation: ValidationConfig) -> ValidationConfig:
        if validation.split == "train":
            raise ValueError("the networks are trained on split train; choose a different split, such as val")
        return validation

    @model_validator(mode="after")
    def _decoded_somewhere(self) -> "PipelineConfig":
        for index, target in enumerate(self.targets):
            if self.export.decode == "graph" and is_raw_only(target.runtime):
                problem = f"runtime {target.runtime} computes raw outputs only; set export.decode: host, or choose a different runtime"
                raise Misfit(("targets", index, "runtime"), problem)
        return self

    @model_validator(mode="after")
    def _other_splits_are_others(self) -> "PipelineConfig":
        if self.validation.split in self.robustness.splits:
            index = self.robustness.splits.index(self.validation.split)
            raise Misfit(("robustness", "splits", index), f"{self.validation.split} is validated on already; leave it out here")
        return self

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "PipelineConfig":
        splits = self.data.splits
        other = next((our for our, name in splits.items() if name == "train" and "train" not in splits), None)
        if other is not None:
            problem = f"train cannot also be {other}: the networks are trained on it; data.val_share: 0.2 holds out a part of train as val"
            raise Misfit(("data", "splits", other), problem)
        return self

    @model_validator(mode="after")
    def _tuning_takes_no_part_in_the_result(self) -> "PipelineConfig":
        split = self.compare.tuning_split
        taken = {"train": "the networks are trained on it", self.validation.split: "the result is judged on it (validation.split)"}
        if split in taken:
            raise Misfit(("compare", "tuning_split"), f"{split} cannot be the tuning split: {taken[split]}; name a different one, or none")
        return self

    @model_validator(mode="after")
    def _unlabelled_images_fit(self) -> "PipelineConfig":
        if (problem := unlabelled.problem(self.data, self.teacher, self.student, self.distill, self.targets)) is not None:
            raise Misfit(*problem)
        return self

    @model_validator(mode="after")
    def _levels_match(self) -> "PipelineConfig":
        """Checks strides before a teacher is trained, if both detectors have such an option; otherwise the losses refuse later."""
        student, teacher = (network.detector.options_of(OptionRole.STRIDES) for network in (self.student, self.teacher))
        for (name, own), other in product(student.items(), teacher.values()):
            if own and other and not set(own) & set(other):
                problem = f"none of {list(own)} is among the teacher's {list(other)}; give the two detectors at least one stride in common"
                raise Misfit(("student", "detector", name), problem)
        return self

    @model_validator(mode="after")
    def _gates_can_be_judged(self) -> "PipelineConfig":
        targets = [target.name for target in self.targets]
        for index, gate in enumerate(self.gates):
            try:
                metrics.check(gate.metric)
            except ValueError as error:
                raise Misfit(("gates", index, "metric"), str(error)) from error
            if (lacking := _LACKING.get((gate.metric, self.baseline.equal))) is not None:
                raise Misfit(("gates", index, "metric"), f"{gate.metric} needs a baseline at equal {lacking}; set baseline.equal to both")
            if (problem := self.robustness.why_not_measured(gate.metric)) is not None:
                raise Misfit(("gates", index, "metric"), problem)
            if gate.target is not None and gate.target not in targets:
                problem = f"no target '{gate.target}'{suggest(gate.target, targets)}; choose from {', '.join(targets)}"
                raise Misfit(("gates", index, "target"), problem)
        return self


def load(path: Path, settings: Sequence[str] = ()) -> PipelineConfig:
    """Read a configuration file, what it extends, and `--set` settings ("a.b=value") on top.

    Raises:
        ConfigError: one line naming the file, the key, what was given and what is allowed.
    """
    document = read_document(path, settings)
    try:
        config = PipelineConfig.model_validate(document.data)
    except ValidationError as error:
        raise explain(error, document, PipelineConfig) from None
    refuse_coerced(document, config.model_dump(mode="json"))
    return config
