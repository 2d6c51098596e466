"""Measures an engine's accuracy and latency through the path that serves it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import machine, plugins
from deploy.accuracy.judge import LabeledSplit, judge
from deploy.contract import Accuracy, Latency
from deploy.errors import RuntimeUnavailable
from deploy.latency import measure, roofline
from deploy.prediction.predictor import SessionPredictor
from stages.artifacts import DETECTIONS, PRECISION_RECALL, Dataset, Engine, Report
from stages.config import LatencyConfig, ValidationConfig
from stages.facts import EngineFacts, ReportFacts, write_facts
from stages.measurement import latency_images
from stages.measurement.splits import labeled_split
from stages.stage import stage


def identity(config: ValidationConfig, engine: Engine, dataset: Dataset | None) -> Mapping[str, Any]:
    """The machine; the runtime's identity is already part of the engine's hash."""
    return machine.identity()


@stage(version=3, identity=identity)
def validate(out: Path, config: ValidationConfig, engine: Engine, dataset: Dataset | None) -> Report:
    """Measure the engine on a split; if it cannot run on this machine, the report's facts give the reason.

    Without data only latency is measured, on gray noise.

    Raises:
        DataError: the data has no such split, or it is empty.
        ArtifactError: the engine is damaged, or its answer is invalid.
    """
    facts = engine.facts
    runtime = plugins.load("deploy.runtimes", facts.runtime)
    why = facts.why or runtime.why_not() or runtime.foreign(facts.fingerprint)
    if why is not None or facts.file is None:
        write_facts(out, _report(facts, None, None, why or "no engine was built"))
        return Report(out)
    judged = labeled_split(dataset, config.split) if dataset is not None else None
    try:
        session = runtime.open(engine.file(facts.file), threads=config.latency.threads, options=facts.options)
    except RuntimeUnavailable as error:  # such as a provider that the target asks for by name
        write_facts(out, _report(facts, None, None, str(error)))
        return Report(out)
    with session:
        predictor = SessionPredictor(session, facts.contract)
        accuracy = _accuracy(out, predictor, judged, f"validate {facts.target}") if judged is not None else None
        images = latency_images.of(judged.images if judged is not None else (), facts.contract.preprocessing)
        measured = _latency(predictor, images, config.latency)
        peak, proof = session.peak(facts.precision), dict(session.proof())
    lowest = None if peak is None or facts.cost is None else roofline.lowest_ms(facts.cost, peak)
    data = None if judged is None else (judged.digest(), len(judged.images))
    more = {"lowest_ms": lowest, "proof": proof, "data": data}
    write_facts(out, _report(facts, accuracy, measured, None).model_copy(update=more))
    return Report(out)


def _accuracy(out: Path, predictor: SessionPredictor, judged: LabeledSplit, label: str) -> Accuracy:
    found = judge(predictor, judged, label)
    (out / DETECTIONS).write_text(json.dumps(found.detections), encoding="utf-8")
    (out / PRECISION_RECALL).write_text(json.dumps(found.curves, allow_nan=False), encoding="utf-8")
    return found.accuracy


def _latency(predictor: SessionPredictor, images: Sequence[NDArray[np.uint8]], config: LatencyConfig) -> Latency:
    return measure.measure(predictor, images, warmup=config.warmup, min_passes=config.min_passes, min_seconds=config.min_seconds)


def _report(engine: EngineFacts, accuracy: Accuracy | None, measured: Latency | None, why: str | None) -> ReportFacts:
    return ReportFacts(
        target=engine.target,
        runtime=engine.runtime,
        precision=engine.precision,
        accuracy=accuracy,
        latency=measured,
        bytes=engine.bytes,
        sha256=engine.sha256,
        machine=machine.identity(),
        why=why,
    )
