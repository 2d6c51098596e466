"""The pipeline as one plain function, and what it returns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from deploy.bundles.manifest import Plan
from pipeline.config import FLOAT, REFERENCES, PipelineConfig
from pipeline.store.store import StageRecord, Store
from stages.artifacts import Checkpoint, Dataset, Engine, OnnxModel, Package, Parity, Report, Verdicts
from stages.config import GateConfig, TargetConfig
from stages.distill import distill
from stages.export import export
from stages.gate import gate
from stages.optimize import judging, optimize
from stages.package import package
from stages.parity import parity
from stages.prepare import prepare
from stages.train import train_baseline, train_teacher
from stages.validate import validate

T = TypeVar("T")
STAGES = ("prepare", "train_teacher", "train_baseline", "distill", "export", "optimize", "validate", "parity", "gate", "package")
RIVALS = (*REFERENCES, FLOAT)
"""The engines that gates may compare targets with."""


@dataclass(frozen=True)
class TargetResult:
    """One target's engine, what was measured and judged of it, and its bundle."""

    config: TargetConfig
    engine: Engine
    report: Report
    parity: Parity
    verdicts: Verdicts
    bundle: Package


@dataclass(frozen=True)
class RunResult:
    """All that a whole run made.

    `references` are the reports of the teacher and the baseline as ONNX Runtime fp32 engines, by "teacher" and "baseline".
    `stages` has one record a stage instance, in the order of the flow.
    """

    config: PipelineConfig
    dataset: Dataset
    teacher: Checkpoint
    baseline: Checkpoint
    student: Checkpoint
    onnx: OnnxModel
    targets: tuple[TargetResult, ...]
    references: Mapping[str, Report]
    stages: tuple[StageRecord, ...]

    @property
    def networks(self) -> dict[str, Checkpoint]:
        """The trained networks by their names."""
        return {"teacher": self.teacher, "baseline": self.baseline, "student": self.student}


def compress(config: PipelineConfig, store: Store) -> RunResult:
    """From images to bundles: a teacher, the student without and with it, then an engine, its figures and verdicts a target.

    The teacher and the baseline become engines too, so that latency is compared like for like; they are not judged or packaged.
    So does the student's graph as it was exported, which every target's engine is compared with.
    """
    seed, device, split = config.seed, config.device, config.validation.split
    graph, decisions = config.export, config.export.decisions
    dataset = store.run(prepare, config.data)
    teacher = store.run(train_teacher, config.teacher, seed, device, split, dataset, decisions)
    baseline = store.run(train_baseline, config.student, seed, device, split, dataset, decisions)
    student = store.run(distill, config.distill, config.student, seed, device, split, dataset, teacher, decisions)

    model = store.run(export, graph, student)
    compared = {name: store.at(name).run(export, graph, network) for name, network in zip(REFERENCES, (teacher, baseline), strict=True)}
    builds = [(target, model) for target in config.targets] + [(reference(name), onnx) for name, onnx in compared.items()]
    builds.append((reference(FLOAT, optimization="none"), model))
    engines = {
        target.name: store.at(target.name).run(optimize, target, onnx, dataset, *judging(target, config.validation))
        for target, onnx in builds
    }
    reports = {name: store.at(name).run(validate, config.validation, engine, dataset) for name, engine in engines.items()}

    names, plain, how, plan = [target.name for target in config.targets], reports[FLOAT], config.validation, plan_of(config)
    parities = {name: store.at(name).run(parity, how, student, plain, engines[name], reports[name], dataset) for name in names}
    trained = {"teacher": teacher, "baseline": baseline, "student": student}
    models, verdicts = {**compared, FLOAT: model}, {}
    for name in names:
        gates = config.gates_of(name)
        networks = {title: network for title, network in trained.items() if any(one.network == title for one in gates)}
        others = _of_rivals(gates, engines), _of_rivals(gates, models), _of_rivals(gates, reports)
        verdicts[name] = store.at(name).run(gate, gates, how, dataset, engines[name], model, reports[name], networks, *others)
    bundles = {
        name: store.at(name).run(package, config.package, plan, engines[name], model, reports[name], verdicts[name]) for name in names
    }
    return RunResult(
        config=config,
        dataset=dataset,
        teacher=teacher,
        baseline=baseline,
        student=student,
        onnx=model,
        targets=tuple(
            TargetResult(
                target,
                engines[target.name],
                reports[target.name],
                parities[target.name],
                verdicts[target.name],
                bundles[target.name],
            )
            for target in config.targets
        ),
        references={name: reports[name] for name in REFERENCES},
        stages=tuple(store.records),
    )


def _of_rivals(gates: Iterable[GateConfig], made: Mapping[str, T]) -> dict[str, T]:
    """What was made of the engines that the gates name, and of no other, so that nothing else makes them stale."""
    named = {one.other for one in gates}
    return {name: made[name] for name in RIVALS if name in named}


def instances(config: PipelineConfig) -> list[str]:
    """Every stage that runs more than once, with its label: "optimize:cpu-int8"."""
    targets = [target.name for target in config.targets]
    labels = {"export": REFERENCES, "optimize": (*targets, *RIVALS), "validate": (*targets, *RIVALS)}
    labels |= dict.fromkeys(("parity", "gate", "package"), tuple(targets))
    return [f"{stage}:{label}" for stage in STAGES for label in labels.get(stage, ())]


def plan_of(config: PipelineConfig) -> Plan:
    """What a bundle carries, so that any of the targets can be built and judged on another machine."""
    return Plan(
        targets=tuple(target.model_dump(mode="json") for target in config.targets),
        gates=tuple(gate.model_dump(mode="json") for gate in config.gates),
        validation=config.validation.model_dump(mode="json"),
    )


def reference(name: str, **options: str) -> TargetConfig:
    """The engine that the teacher and the baseline are measured as, and the student's graph as it was exported."""
    return TargetConfig.model_validate({"name": name, "runtime": "ort", "precision": "fp32", **options})
