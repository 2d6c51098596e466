"""The pipeline as one plain function, and its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.comparison import metrics
from deploy.errors import DataError
from pipeline.baselines import Baselines, refuse_unlabeled, why_no_baseline
from pipeline.config import FLOAT, REFERENCES, PipelineConfig
from pipeline.config.derived import EQUAL_COST, FIRST, RIVALS, plan_of, reference
from pipeline.images import announce, warn
from pipeline.run_result import RunResult, TargetResult
from pipeline.store.store import Store
from stages.artifacts import (
    Checkpoint,
    Dataset,
    Engine,
    Gains,
    ImagePool,
    Measurement,
    OnnxModel,
    Package,
    Parity,
    PseudoLabels,
    Report,
    Robustness,
    Verdicts,
)
from stages.assess import assess
from stages.collect import collect
from stages.compare import compare
from stages.config import DistillConfig, TargetConfig, ValidationConfig, stretched
from stages.distill import distill
from stages.export import export
from stages.finetune_int8 import finetune_int8
from stages.gate import gate
from stages.label import label
from stages.measure import measure
from stages.measurement.crowded import noted
from stages.measurement.robust import AT, Elsewhere, refuse
from stages.optimize import judging, optimize
from stages.package import package
from stages.parity import parity
from stages.prepare import prepare
from stages.stress import stress
from stages.time_steps import step_options, time_steps
from stages.train import train_baseline, train_teacher
from stages.validate import validate


@dataclass(frozen=True)
class _Measured:
    """An engine, the graph it was built from, its accuracy, and the latencies and robustness of all engines."""

    model: OnnxModel
    engine: Engine
    report: Report
    measurement: Measurement
    robust: tuple[Elsewhere, Robustness] | None


def compress(config: PipelineConfig, store: Store) -> RunResult:
    """From images to bundles: train teacher, baselines and student, then build, measure, judge and package one engine per target.

    The teacher and the stronger baseline are also built as engines, to compare latencies like for like; they are not judged or packaged.
    So is the student's graph as exported: every target's engine is compared with it.
    """
    seed, device, split = config.seed, config.device, config.validation.split
    graph, decisions = config.export, config.export.decisions
    dataset = prepared(config, store)
    pool = collected(config, store, dataset)
    own = pool if config.teacher.from_unlabelled is not None else None
    first = first_labels(config, store, dataset, own)
    large = config.teacher if own is not None else config.teacher.labeled
    teacher = store.run(train_teacher, large, seed, device, split, dataset, decisions, own, config.distill.taught, first)
    labels = labeled(config, store, dataset, pool, teacher, config.distill)
    learned = self_labels(config, store, dataset, own, teacher, first) if labels is None else labels
    why = why_no_baseline(config, dataset) if store.has(dataset) else None
    baselines = _baselines(config, store, dataset) if why is None else Baselines(None, left_out=why)
    taught = config.distill if labels is not None else config.distill.labeled
    student = store.run(distill, taught, config.student, seed, device, split, dataset, teacher, decisions, labels)
    tuned = _tuned(config, store, dataset, student, teacher)
    reasons = baselines.left_out, labels if why is not None else None
    gains = store.run(compare, dataset, teacher, student, baselines.by_equal, baselines.times, *reasons)

    model = store.run(export, graph, student)
    title, baseline = baselines.compared(store)
    shown = {"teacher": teacher, **({} if baseline is None else {"baseline": baseline})}
    inside = graph.model_copy(update={"decode": "graph"})  # a teacher need not be of a kind that a host can decode
    exported = {name: store.at(name).run(export, inside if name == "teacher" else graph, one) for name, one in shown.items()}
    models = {name: store.at(name).run(export, graph, one) for name, one in tuned.items()}
    builds = [(target, models.get(target.name, model)) for target in config.targets]
    builds += [(reference(name), onnx) for name, onnx in exported.items()]
    measured = _measure(config, store, dataset, [*builds, (reference(FLOAT, optimization="none"), model)])

    names, networks = [target.name for target in config.targets], baselines.between(teacher, student)
    how, plain = config.validation, measured[FLOAT].report
    parities = {n: _compare(how, store.at(n), dataset, student, tuned.get(n), plain, measured[n]) for n in names}
    verdicts = {name: _judge(config, store, dataset, networks, measured, name, title) for name in names}
    bundles = {name: _pack(config, store, measured[name], verdicts[name], gains, name) for name in names}
    targets = tuple(
        TargetResult(target, measured[name].engine, measured[name].report, parities[name], verdicts[name], bundles[name])
        for name, target in zip(names, config.targets, strict=True)
    )
    references = {name: measured[name].report for name in REFERENCES if name in measured}
    timed = measured[FLOAT].measurement
    robust = measured[FLOAT].robust
    records = tuple(store.records)
    return RunResult(
        config, dataset, teacher, baselines, student, gains, model, targets, references, timed, records, robust, pool=pool, labels=learned
    )


def _tuned(config: PipelineConfig, store: Store, dataset: Dataset, student: Checkpoint, teacher: Checkpoint) -> dict[str, Checkpoint]:
    """The student trained for the int8 of each target that asks for it."""
    given = config.distill.labeled, config.seed, config.device, config.validation.split, dataset, student, teacher, config.export
    asked = {target.name: target.finetuning(config.student.train) for target in config.targets}
    return {name: store.at(name).run(finetune_int8, how, *given) for name, how in asked.items() if how is not None}


def _baselines(config: PipelineConfig, store: Store, dataset: Dataset) -> Baselines:
    """Train those that the configuration asks for, the one at equal cost only if its training is estimated to be short enough."""
    given = config.seed, config.device, config.validation.split, dataset, config.export.decisions
    student, asked, view = config.student, config.baseline, store.at(EQUAL_COST)
    times = None
    if asked.equal != "steps":
        times = store.run(time_steps, *step_options(config.distill, student, config.teacher), config.device, dataset)
    steps = None if asked.equal == "cost" else store.run(train_baseline, student, *given)
    if times is None:
        return Baselines(steps)
    if not (store.has(times) and store.has(dataset)):
        return Baselines(steps, view.foresee(train_baseline, "its epochs follow from time_steps"), times)
    longer = stretched(student, times.facts.ratio.ratio)
    if longer == student and steps is not None:
        return Baselines(steps, steps, times)
    seconds = times.facts.plain_s * longer.train.num_steps(dataset.facts.splits["train"].num_images)
    if (why := asked.why_left_out(longer.train.epochs, seconds)) is not None:
        store.say(f"{f'train_baseline:{EQUAL_COST}':<28} left out: {why}")
        return Baselines(steps, None, times, why)
    return Baselines(steps, view.run(train_baseline, longer, *given), times)


def prepared(config: PipelineConfig, store: Store) -> Dataset:
    """The data, made now or reused; either way the store prints what was repaired, assumed or left out."""
    dataset = store.run(prepare, config.data.labeled)
    if not store.mode.dry:
        announce(noted(dataset, config.export.max_detections), store)
    if store.has(dataset):
        refuse(config.robustness, config.validation.split, dataset)
        refuse_unlabeled(config, dataset)
        splits = [name for name, split in dataset.facts.splits.items() if split.num_images]
        for line in config.unmet(splits, dataset.facts.contract.classes):
            raise DataError(line)
    return dataset


def collected(config: PipelineConfig, store: Store, dataset: Dataset) -> ImagePool | None:
    """The images without labels; None if the configuration uses none."""
    if not config.uses_unlabelled:
        return None
    pool = store.run(collect, config.data, dataset)
    if not store.mode.dry:
        announce(pool.facts.notes, store)
    return pool


def first_labels(config: PipelineConfig, store: Store, dataset: Dataset, pool: ImagePool | None) -> PseudoLabels | None:
    """What a teacher of labeled images finds in the others, for the one that learns from both; None if that one labels for itself."""
    asked, split, decisions = config.teacher.from_unlabelled, config.validation.split, config.export.decisions
    if asked is None or pool is None or asked.labels == "own":
        return None
    view, given = store.at(FIRST), (config.seed, config.device, split, dataset, decisions)
    first = view.run(train_teacher, config.teacher.labeled, *given, None, config.distill.taught, None)
    found = view.run(label, asked.rule, config.device, split, dataset, pool, first, decisions)
    warn(found, store)
    return found


def self_labels(
    config: PipelineConfig, store: Store, dataset: Dataset, pool: ImagePool | None, teacher: Checkpoint, first: PseudoLabels | None
) -> PseudoLabels | None:
    """What a teacher learned that is the only one to learn from images without labels: what `first` found, or it finds in the end."""
    asked = config.teacher.from_unlabelled
    if asked is None or pool is None or first is not None:
        return first
    found = store.run(label, asked.rule, config.device, config.validation.split, dataset, pool, teacher, config.export.decisions)
    warn(found, store)
    return found


def labeled(
    config: PipelineConfig, store: Store, dataset: Dataset, pool: ImagePool | None, teacher: Checkpoint, taught: DistillConfig
) -> PseudoLabels | None:
    """What the teacher finds in the images without labels; None if the student that is `taught` learns nothing from them."""
    asked = taught.from_unlabelled
    if asked is None or pool is None:
        return None
    labels = store.run(label, asked.rule, config.device, config.validation.split, dataset, pool, teacher, config.export.decisions)
    warn(labels, store)
    return labels


def _measure(
    config: PipelineConfig, store: Store, dataset: Dataset, builds: Sequence[tuple[TargetConfig, OnnxModel]]
) -> dict[str, _Measured]:
    """Build all engines, then measure the accuracy of each and the latencies of all together; the keys are the names of their targets."""
    how = config.validation
    plain = {target.name: model for target, model in builds}[FLOAT]
    engines: dict[str, Engine] = {}
    for target, model in builds:
        given = target, model, dataset, *judging(target, how), plain if target.finetunes else None
        engines[target.name] = store.at(target.name).run(optimize, *given)
    reports = {name: store.at(name).run(validate, how, engine, dataset) for name, engine in engines.items()}
    measurement = store.run(measure, how.latency, how.split, engines, dataset)
    robust = _robust(config, store, dataset, engines, reports)
    return {target.name: _Measured(model, engines[target.name], reports[target.name], measurement, robust) for target, model in builds}


def _robust(
    config: PipelineConfig, store: Store, dataset: Dataset, engines: Mapping[str, Engine], reports: Mapping[str, Report]
) -> tuple[Elsewhere, Robustness] | None:
    """Judge all engines on other splits and on corrupted images, if asked for."""
    asked, how = config.robustness, config.validation
    every = dict(reports)
    for split in asked.splits:
        there = how.model_copy(update={"split": split})
        every |= {f"{name}{AT}{split}": store.at(f"{name}{AT}{split}").run(validate, there, one, dataset) for name, one in engines.items()}
    sweep = None if asked.corruptions is None else store.run(stress, asked.swept, how.split, how.latency.threads, engines, dataset)
    if not asked.is_asked:
        return None
    return Elsewhere(asked, how.split, dataset, every, sweep), store.run(assess, asked, how.split, dataset, every, sweep)


def _compare(
    how: ValidationConfig, store: Store, dataset: Dataset, student: Checkpoint, tuned: Checkpoint | None, plain: Report, own: _Measured
) -> Parity:
    """Where a target lost accuracy, from the trained student to its engine; `tuned` is the student trained for its int8."""
    return store.run(parity, how, student, plain, own.engine, own.report, dataset, tuned)


def _judge(
    config: PipelineConfig,
    store: Store,
    dataset: Dataset,
    networks: Mapping[str, Checkpoint],
    measured: Mapping[str, _Measured],
    name: str,
    baseline: str,
) -> Verdicts:
    """A target's verdicts; `baseline` is what the one that they compare with is called.

    Only the networks and engines that its gates name are inputs, so others cannot make them stale.
    """
    own, gates = measured[name], config.gates_of(name)
    named = {title: network for title, network in networks.items() if any(one.network == title for one in gates)}
    rivals = {rival: measured[rival] for rival in RIVALS if any(one.other == rival for one in gates)}
    engines = {rival: made.engine for rival, made in rivals.items()}
    models = {rival: made.model for rival, made in rivals.items()}
    reports = {rival: made.report for rival, made in rivals.items()}
    own_files = own.engine, own.model, own.report, own.measurement
    title = baseline if "baseline" in rivals else "baseline"
    more: tuple[Any, ...] = ()
    if own.robust is not None and any(metrics.is_robust(one.metric) for one in gates):
        more = config.robustness, own.robust[0].reports, own.robust[0].sweep, own.robust[1]
    return store.at(name).run(gate, gates, config.validation, dataset, *own_files, named, engines, models, reports, title, *more)


def _pack(config: PipelineConfig, store: Store, own: _Measured, verdicts: Verdicts, gains: Gains, name: str) -> Package:
    measured = own.engine, own.model, own.report, own.measurement
    return store.at(name).run(
        package, config.package, plan_of(config), *measured, verdicts, gains, None if own.robust is None else own.robust[1]
    )
