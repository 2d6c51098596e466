"""Judges measured numbers against the limits of pipeline.yaml."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stages.artifacts import Checkpoint, Dataset, Engine, Measurement, OnnxModel, Report, Robustness, Stress, Verdicts
from stages.config import GateConfig, RobustnessConfig, ValidationConfig
from stages.facts import VerdictFacts, write_facts
from stages.measurement.robust import Elsewhere, robust_side
from stages.measurement.verdicts import Judge, side_of
from stages.stage import stage


@stage(version=5)
def gate(
    out: Path,
    gates: tuple[GateConfig, ...],
    validation: ValidationConfig,
    dataset: Dataset | None,
    engine: Engine,
    model: OnnxModel,
    report: Report,
    measurement: Measurement,
    networks: Mapping[str, Checkpoint],
    engines: Mapping[str, Engine],
    models: Mapping[str, OnnxModel],
    reports: Mapping[str, Report],
    baseline: str = "baseline",
    robustness: RobustnessConfig | None = None,
    elsewhere: Mapping[str, Report] | None = None,
    sweep: Stress | None = None,
    figures: Robustness | None = None,
) -> Verdicts:
    """Judge one target; a failed gate is a verdict, not an error. Gates versus a reference are left to `edgedistill gate`.

    Args:
        networks: teacher, baselines and student, for the figures that are differences from them; engines, models and reports:
            teacher, baseline and float, which gates with `versus` are judged against; baseline: what the baseline is called, if the
            run has several; robustness, elsewhere, sweep, figures: what `assess` was given and found, for gates on it.
    """
    reached = {name: network.facts.accuracy for name, network in networks.items()}
    own = side_of(engine, report, (measurement, report.facts.target), model, validation, reached)
    others = {
        name: replace(side_of(engines[name], reports[name], (measurement, name), models[name], validation, {}), name=name)
        for name in engines
    }
    if robustness is not None and dataset is not None and elsewhere is not None:
        found = Elsewhere(robustness, validation.split, dataset, elsewhere, sweep)
        own = robust_side(own, own.name, found, figures)
        others = {name: robust_side(other, name, found, figures) for name, other in others.items()}
    judged = Judge(own, others, dataset, validation, baseline)
    verdicts = tuple(judged.verdict(one) for one in gates if one.target in (None, own.name) and one.other != "reference")
    write_facts(out, VerdictFacts(target=own.name, verdicts=verdicts))
    return Verdicts(out)
