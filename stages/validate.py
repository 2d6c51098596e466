"""Measures an engine's accuracy through the path that serves it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy import machine
from deploy.accuracy.judge import LabeledSplit, judge
from deploy.contract import Accuracy
from deploy.errors import RuntimeUnavailable
from deploy.latency import roofline
from deploy.prediction.predictor import SessionPredictor
from stages.artifacts import DETECTIONS, PRECISION_RECALL, Dataset, Engine, Report
from stages.config import ValidationConfig
from stages.facts import EngineFacts, ReportFacts, write_facts
from stages.measurement.sessions import open_session
from stages.measurement.splits import labeled_split
from stages.stage import stage


def identity(config: ValidationConfig, engine: Engine, dataset: Dataset | None) -> Mapping[str, Any]:
    """The machine; the runtime's identity is already part of the engine's hash."""
    return machine.identity()


@stage(version=4, identity=identity)
def validate(out: Path, config: ValidationConfig, engine: Engine, dataset: Dataset | None) -> Report:
    """Measure the engine on a split; if it cannot run on this machine, the report's facts give the reason.

    Without data there is no accuracy.

    Raises:
        DataError: the data has no such split, or it is empty.
        ArtifactError: the engine is damaged, or its answer is invalid.
    """
    facts = engine.facts
    judged = labeled_split(dataset, config.split) if dataset is not None else None
    try:
        session = open_session(engine, config.latency.threads)
    except RuntimeUnavailable as error:
        write_facts(out, _report(facts, None, str(error)))
        return Report(out)
    with session:
        predictor = SessionPredictor(session, facts.contract)
        accuracy = _accuracy(out, predictor, judged, f"validate {facts.target}") if judged is not None else None
        peak, proof = session.peak(facts.precision), dict(session.proof())
    lowest = None if peak is None or facts.cost is None else roofline.lowest_ms(facts.cost, peak)
    data = None if judged is None else (judged.digest(), len(judged.images))
    more = {"lowest_ms": lowest, "proof": proof, "data": data}
    write_facts(out, _report(facts, accuracy, None).model_copy(update=more))
    return Report(out)


def _accuracy(out: Path, predictor: SessionPredictor, judged: LabeledSplit, label: str) -> Accuracy:
    found = judge(predictor, judged, label)
    (out / DETECTIONS).write_text(json.dumps(found.detections), encoding="utf-8")
    (out / PRECISION_RECALL).write_text(json.dumps(found.curves, allow_nan=False), encoding="utf-8")
    return found.accuracy


def _report(engine: EngineFacts, accuracy: Accuracy | None, why: str | None) -> ReportFacts:
    return ReportFacts(
        target=engine.target,
        runtime=engine.runtime,
        precision=engine.precision,
        accuracy=accuracy,
        bytes=engine.bytes,
        sha256=engine.sha256,
        machine=machine.identity(),
        why=why,
    )
