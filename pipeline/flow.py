"""The pipeline as one plain function, and its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.bundles.manifest import Plan
from pipeline.config import FLOAT, REFERENCES, PipelineConfig
from pipeline.store.store import StageRecord, Store
from stages import STAGES
from stages.artifacts import Checkpoint, Dataset, Engine, Measurement, OnnxModel, Package, Parity, Report, Verdicts
from stages.config import TargetConfig
from stages.distill import distill
from stages.export import export
from stages.gate import gate
from stages.measure import measure
from stages.notes import note_lines
from stages.optimize import judging, optimize
from stages.package import package
from stages.parity import parity
from stages.prepare import prepare
from stages.train import train_baseline, train_teacher
from stages.validate import validate

RIVALS = (*REFERENCES, FLOAT)
"""The engines that gates may compare targets with."""


@dataclass(frozen=True)
class TargetResult:
    """One target's engine, its measurements and verdicts, and its bundle."""

    config: TargetConfig
    engine: Engine
    report: Report
    parity: Parity
    verdicts: Verdicts
    bundle: Package


@dataclass(frozen=True)
class RunResult:
    """Everything that a complete run made.

    `measurement` has the latencies of all engines. `references` are the reports of the teacher and the baseline as ONNX Runtime fp32
    engines, under "teacher" and "baseline".
    `stages` has one record per stage instance, in the order of the flow.
    """

    config: PipelineConfig
    dataset: Dataset
    teacher: Checkpoint
    baseline: Checkpoint
    student: Checkpoint
    onnx: OnnxModel
    targets: tuple[TargetResult, ...]
    references: Mapping[str, Report]
    measurement: Measurement
    stages: tuple[StageRecord, ...]

    @property
    def networks(self) -> dict[str, Checkpoint]:
        """The trained networks by their names."""
        return {"teacher": self.teacher, "baseline": self.baseline, "student": self.student}


@dataclass(frozen=True)
class _Measured:
    """An engine, the graph it was built from, its accuracy, and the latencies of all engines."""

    model: OnnxModel
    engine: Engine
    report: Report
    measurement: Measurement


def compress(config: PipelineConfig, store: Store) -> RunResult:
    """From images to bundles: train teacher, baseline and student, then build, measure, judge and package one engine per target.

    The teacher and the baseline are also built as engines, to compare latencies like for like; they are not judged or packaged.
    So is the student's graph as exported: every target's engine is compared with it.
    """
    seed, device, split = config.seed, config.device, config.validation.split
    graph, decisions = config.export, config.export.decisions
    dataset = prepared(config, store)
    teacher = store.run(train_teacher, config.teacher, seed, device, split, dataset, decisions)
    baseline = store.run(train_baseline, config.student, seed, device, split, dataset, decisions)
    student = store.run(distill, config.distill, config.student, seed, device, split, dataset, teacher, decisions)

    model = store.run(export, graph, student)
    exported = {"teacher": store.at("teacher").run(export, graph, teacher), "baseline": store.at("baseline").run(export, graph, baseline)}
    builds = [*((target, model) for target in config.targets), *((reference(name), onnx) for name, onnx in exported.items())]
    measured = _measure(config, store, dataset, [*builds, (reference(FLOAT, optimization="none"), model)])

    names, networks = [target.name for target in config.targets], {"teacher": teacher, "baseline": baseline, "student": student}
    parities = {name: _compare(config, store, dataset, student, measured, name) for name in names}
    verdicts = {name: _judge(config, store, dataset, networks, measured, name) for name in names}
    bundles = {name: _pack(config, store, measured[name], verdicts[name], name) for name in names}
    targets = tuple(
        TargetResult(target, measured[name].engine, measured[name].report, parities[name], verdicts[name], bundles[name])
        for name, target in zip(names, config.targets, strict=True)
    )
    references = {name: measured[name].report for name in REFERENCES}
    timed = measured[FLOAT].measurement
    return RunResult(config, dataset, teacher, baseline, student, model, targets, references, timed, tuple(store.records))


def prepared(config: PipelineConfig, store: Store) -> Dataset:
    """The data, made now or reused; either way the store prints what was repaired, assumed or left out."""
    dataset = store.run(prepare, config.data)
    if not store.mode.dry:
        announce(dataset, store)
    return dataset


def announce(dataset: Dataset, store: Store) -> None:
    """Print the notes on a data set, one line each."""
    for line in note_lines(dataset.facts.notes):
        store.say(line)


def _measure(
    config: PipelineConfig, store: Store, dataset: Dataset, builds: Sequence[tuple[TargetConfig, OnnxModel]]
) -> dict[str, _Measured]:
    """Build all engines, then measure the accuracy of each and the latencies of all together; the keys are the names of their targets."""
    how = config.validation
    engines = {target.name: store.at(target.name).run(optimize, target, model, dataset, *judging(target, how)) for target, model in builds}
    reports = {name: store.at(name).run(validate, how, engine, dataset) for name, engine in engines.items()}
    measurement = store.run(measure, how.latency, how.split, engines, dataset)
    return {target.name: _Measured(model, engines[target.name], reports[target.name], measurement) for target, model in builds}


def _compare(
    config: PipelineConfig, store: Store, dataset: Dataset, student: Checkpoint, measured: Mapping[str, _Measured], name: str
) -> Parity:
    """Where a target lost accuracy, from the trained student to its engine."""
    own = measured[name]
    return store.at(name).run(parity, config.validation, student, measured[FLOAT].report, own.engine, own.report, dataset)


def _judge(
    config: PipelineConfig,
    store: Store,
    dataset: Dataset,
    networks: Mapping[str, Checkpoint],
    measured: Mapping[str, _Measured],
    name: str,
) -> Verdicts:
    """A target's verdicts; only the networks and engines that its gates name are inputs, so others cannot make them stale."""
    own, gates = measured[name], config.gates_of(name)
    named = {title: network for title, network in networks.items() if any(one.network == title for one in gates)}
    rivals = {rival: measured[rival] for rival in RIVALS if any(one.other == rival for one in gates)}
    engines = {rival: made.engine for rival, made in rivals.items()}
    models = {rival: made.model for rival, made in rivals.items()}
    reports = {rival: made.report for rival, made in rivals.items()}
    own_files = own.engine, own.model, own.report, own.measurement
    return store.at(name).run(gate, gates, config.validation, dataset, *own_files, named, engines, models, reports)


def _pack(config: PipelineConfig, store: Store, own: _Measured, verdicts: Verdicts, name: str) -> Package:
    return store.at(name).run(package, config.package, plan_of(config), own.engine, own.model, own.report, own.measurement, verdicts)


def instances(config: PipelineConfig) -> list[str]:
    """Every stage that runs more than once, with its label: "optimize:cpu-int8"."""
    targets = [target.name for target in config.targets]
    labels = {"export": REFERENCES, "optimize": (*targets, *RIVALS), "validate": (*targets, *RIVALS)}
    labels |= dict.fromkeys(("parity", "gate", "package"), tuple(targets))
    return [f"{stage}:{label}" for stage in STAGES for label in labels.get(stage, ())]


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
