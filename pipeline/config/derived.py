"""What follows from a configuration: the engines that gates compare with, the stages that run several times, the plan of every bundle."""

from deploy.bundles.manifest import Plan
from pipeline.config.pipeline import FLOAT, REFERENCES, PipelineConfig
from stages import STAGES
from stages.config import TargetConfig
from stages.measurement.robust import AT

RIVALS = (*REFERENCES, FLOAT)
"""The engines that gates may compare targets with."""

FIRST = "first"
"""The label of the teacher that learns from labeled images only and labels the others for the one that learns from both."""

EQUAL_COST = "equal_cost"
"""The label of the baseline that is trained for as long as the student."""


def instances(config: PipelineConfig) -> list[str]:
    """Every stage that runs more than once, with its label: "optimize:cpu-int8"."""
    targets = [target.name for target in config.targets]
    longer = () if config.baseline.equal == "steps" else (EQUAL_COST,)
    tuned = tuple(target.name for target in config.targets if target.finetunes)
    labels = {"train_baseline": longer, "finetune_int8": tuned, "export": (*tuned, *REFERENCES)}
    labels |= dict.fromkeys(("optimize", "validate"), (*targets, *RIVALS))
    if (own := config.teacher.from_unlabelled) is not None and own.labels == "first":
        labels |= {"train_teacher": (FIRST,), "label": (FIRST,)}
    labels["validate"] += tuple(f"{name}{AT}{split}" for split in config.robustness.splits for name in labels["validate"])
    labels |= dict.fromkeys(("parity", "gate", "package"), tuple(targets))
    return [f"{stage}:{label}" for stage in STAGES for label in labels.get(stage, ())]


def interim(config: PipelineConfig) -> frozenset[str]:
    """The instances after which a different stage runs, and then another instance of the same."""
    if (own := config.teacher.from_unlabelled) is None or own.labels != "first":
        return frozenset()
    again = ("train_teacher",) if config.distill.from_unlabelled is None else ("train_teacher", "label")
    return frozenset(f"{stage}:{FIRST}" for stage in again)


def plan_of(config: PipelineConfig) -> Plan:
    """The plan that each bundle contains, with which any of the targets can be built and judged on a different machine."""
    return Plan(
        targets=tuple(target.model_dump(mode="json") for target in config.targets),
        gates=tuple(gate.model_dump(mode="json") for gate in config.gates),
        validation=config.validation.model_dump(mode="json"),
    )


def reference(name: str, **options: str) -> TargetConfig:
    """The target with which the teacher, the baseline and the student's exported graph are measured: ONNX Runtime in fp32."""
    return TargetConfig.model_validate({"name": name, "runtime": "ort", "precision": "fp32", **options})
