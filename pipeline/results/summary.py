"""summary.json: the figures of a run and the verdict on it, as strict JSON; an undefined figure is null, never NaN."""

from dataclasses import asdict
from typing import Any

from deploy.bundles.manifest import Verdict
from deploy.comparison import metrics
from deploy.comparison.learning_curve import LearningCurve, still_rising
from deploy.contract import Latency
from pipeline.run_result import RunResult
from pipeline.store.store import StageRecord
from stages.artifacts import Checkpoint, Engine, Measurement, Parity, Report, StepTimes

NETWORKS = ("teacher", "baseline", "baseline_equal_cost", "student")
"""The trained networks; a baseline that the run does without is null."""

LEAST_LEAD = 0.01
"""Of a smaller lead in mAP, a share says nothing: it would be a small number divided by chance."""


def summarize(result: RunResult) -> dict[str, Any]:
    """The contents of summary.json."""
    networks = result.networks
    figures = {name: network_figures(networks[name]) if name in networks else None for name in NETWORKS}
    maps = {name: None if value is None else value["map"] for name, value in figures.items()}
    masks = {name: None if value is None else value["mask_map"] for name, value in figures.items()}
    verdicts = [verdict for target in result.targets for verdict in target.verdicts.facts.verdicts]
    return {
        "format": 1,
        "name": result.config.name,
        "seed": result.config.seed,
        "exit_code": result.exit_code(verdicts),
        "data": {"notes": [note.model_dump(mode="json") for note in result.notes], "unlabelled": unlabelled_figures(result)},
        **figures,
        "gain_map": difference(maps["student"], maps["baseline"]),
        "gap_closed": gap_closed(maps["teacher"], maps["baseline"], maps["student"]),
        "gain_map_equal_cost": difference(maps["student"], maps["baseline_equal_cost"]),
        "gap_closed_equal_cost": gap_closed(maps["teacher"], maps["baseline_equal_cost"], maps["student"]),
        "gain_mask_map": difference(masks["student"], masks["baseline"]),
        "gain_mask_map_equal_cost": difference(masks["student"], masks["baseline_equal_cost"]),
        "gain": result.gains.facts.model_dump(mode="json"),
        "step_times": step_figures(result.baselines.times),
        "targets": {
            target.config.name: {
                **target_figures(target.report, result.measurement, target.config.name),
                **engine_figures(target.engine),
                "parity": parity_figures(target.parity),
            }
            for target in result.targets
        },
        "references": {name: target_figures(report, result.measurement, name) for name, report in result.references.items()},
        "measurement": measurement_figures(result.measurement),
        "robustness": robustness_figures(result),
        "gates": [gate_figures(verdict) for verdict in verdicts],
        "stages": [stage_figures(record) for record in result.stages],
    }


def unlabelled_figures(result: RunResult) -> dict[str, Any] | None:
    """The images, how many of them are learned, and the teacher's detections in them by class; null if the run uses none."""
    own = result.config.distill.from_unlabelled or result.config.teacher.from_unlabelled
    if result.pool is None or own is None:
        return None
    facts = result.pool.facts
    learned = facts.num_images if own.images is None else min(own.images, facts.num_images)
    labels = None if result.labels is None else result.labels.facts.model_dump(mode="json")
    return {"num_images": facts.num_images, "num_learned": learned, "sha256": facts.sha256, "labels": labels}


def step_figures(times: StepTimes | None) -> dict[str, Any] | None:
    """Seconds of a training step of the student, without and with its teacher, and their ratio; null if it was not measured."""
    return None if times is None else times.facts.model_dump(mode="json")


def network_figures(checkpoint: Checkpoint) -> dict[str, Any]:
    """A trained network's accuracy, measured in torch, its size, its epochs, and how mAP rose during its training."""
    facts = checkpoint.facts
    accuracy = facts.accuracy.model_dump(include={"map", "map_50", "map_75", "split", "num_images"})
    return {
        **accuracy,
        "mask_map": metrics.value("mask_map", metrics.Figures(facts.accuracy)),
        "parameters": facts.parameters,
        "macs": facts.macs,
        "epochs": facts.epochs,
        "curve": curve_figures(facts.curve),
    }


def curve_figures(curve: LearningCurve | None) -> dict[str, Any] | None:
    """A network's curve, with its verdict; null if there is none."""
    return None if curve is None else {**curve.model_dump(mode="json"), "still_rising": still_rising(curve.last_fifth)}


def target_figures(report: Report, measurement: Measurement, name: str) -> dict[str, Any]:
    """An engine's measurements; if it could not be measured, null and the reason in `why`.

    `speedups`: how many times as long teacher, baseline and float graph take, from pixels to boxes, with their 95% intervals.
    """
    facts = report.facts
    accuracy = facts.accuracy.model_dump(include={"map", "map_50", "map_75", "split", "num_images"}) if facts.accuracy else {}
    timed = measurement.facts
    speedups = {other: ratio.model_dump() for other, ratio in timed.speedups(name).items() if other in metrics.SPEEDUPS.values()}
    return {
        "runtime": facts.runtime,
        "precision": facts.precision,
        **{key: accuracy.get(key) for key in ("map", "map_50", "map_75", "split", "num_images")},
        "mask_map": metrics.value("mask_map", metrics.Figures(facts.accuracy)),
        "speedups": speedups,
        "latency_ms": latency_figures(timed.latency(name)),
        "bytes": facts.bytes,
        "sha256": facts.sha256,
        "lowest_ms": facts.lowest_ms,
        "engine_proof": facts.proof,
        "why": facts.why,
    }


def latency_figures(latency: Latency | None) -> dict[str, Any] | None:
    """Percentiles of each part of a pass, in milliseconds; `low` and `high` are the 95% interval of those end to end."""
    return latency.model_dump(include={"pre", "infer", "post", "end_to_end", "low", "high"}) if latency else None


def measurement_figures(measurement: Measurement) -> dict[str, Any] | None:
    """How the latencies were measured; null if no engine runs on this machine."""
    found = measurement.facts.measured
    if found is None:
        return None
    return {**found.model_dump(include={"rounds", "seconds", "settled", "drift", "load"}), "warning": found.warning()}


def robustness_figures(result: RunResult) -> dict[str, Any] | None:
    """Every engine's accuracy on other splits, in groups and on corrupted images, and the student's leads; null if not asked for.

    `float` is the student's graph as exported. `values` are the figures that gates can limit.
    """
    if result.robustness is None:
        return None
    facts = result.robustness.facts
    figures = facts.model_dump(mode="json")
    for name, one in facts.engines.items():
        worst = one.worst
        figures["engines"][name] |= {"values": one.values(), "worst_group": None if worst is None else worst[0]}
    return figures


def engine_figures(engine: Engine) -> dict[str, Any]:
    """The proof of an engine's precision, its cost, the layers that int8 returned to float, the choice of a precision, int8 training.

    The last three are null if there was nothing to decide. `int8` also has `words`, the same in one sentence.
    """
    facts = engine.facts
    kept = {"limit", "float_map", "map", "float_layers", "num_layers"}
    return {
        "proof": facts.proof,
        "cost": None if facts.cost is None else facts.cost.model_dump(mode="json"),
        "fallback": None if facts.fallback is None else facts.fallback.model_dump(include=kept, mode="json"),
        "choice": None if facts.choice is None else facts.choice.figures(),
        "int8": None if facts.int8 is None else {**facts.int8.model_dump(mode="json"), "words": str(facts.int8)},
    }


def parity_figures(parity: Parity) -> dict[str, Any]:
    """Where a target lost accuracy; also the largest value of each fp16 tensor, in descending order."""
    facts = parity.facts.model_dump(exclude={"target", "split"}, mode="json")
    for step in facts["steps"]:
        step["largest"] = [{"tensor": name, "value": value} for name, value in sorted(step["largest"].items(), key=lambda item: -item[1])]
    return facts


def gate_figures(verdict: Verdict) -> dict[str, Any]:
    """One gate's verdict on one target."""
    return verdict.model_dump(mode="json")


def stage_figures(record: StageRecord) -> dict[str, Any]:
    """What a stage cost; if it was reused, `seconds` is the time of the run that made it."""
    return asdict(record)


def difference(one: float | None, other: float | None) -> float | None:
    """one - other; null if either is null."""
    return None if one is None or other is None else one - other


def gap_closed(teacher: float | None, baseline: float | None, student: float | None) -> float | None:
    """The share of the gap between baseline and teacher that distillation closed; null unless the teacher leads by LEAST_LEAD."""
    lead, gain = difference(teacher, baseline), difference(student, baseline)
    return None if lead is None or gain is None or lead < LEAST_LEAD else gain / lead
