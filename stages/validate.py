"""An engine's accuracy and latency, measured through the path that serves it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import latency, machine, plugins, preprocess
from deploy.accuracy import judge
from deploy.contract import Accuracy, Latency
from deploy.predictor import Predictor
from stages.artifacts import Dataset, Engine, EngineFacts, Report, ReportFacts, write_facts
from stages.config import LatencyConfig, ValidationConfig
from stages.splits import split
from stages.stage import stage

LATENCY_IMAGES = 64


def identity(config: ValidationConfig, engine: Engine, dataset: Dataset) -> Mapping[str, Any]:
    """The machine; the runtime's identity is in the engine's hash already."""
    return machine.identity()


@stage(version=1, identity=identity)
def validate(out: Path, config: ValidationConfig, engine: Engine, dataset: Dataset) -> Report:
    """Measure the engine on a split; where it cannot run on this machine, the report's facts say why instead.

    Raises:
        DataError: the data has no such split, or it is empty.
        ArtifactError: the engine is damaged, or its answer cannot be used.
    """
    facts = engine.facts
    runtime = plugins.load("deploy.runtimes", facts.runtime)
    why = facts.why or runtime.why_not()
    if why is not None or facts.file is None:
        write_facts(out, _report(facts, None, None, why or "no engine was built"))
        return Report(out)
    judged = split(dataset, config.split)
    with runtime.open(engine.file(facts.file), threads=config.latency.threads) as session:
        predictor = Predictor(session, facts.contract)
        found = judge(predictor, judged, f"validate {facts.target}")
        measured = _latency(predictor, judged.images, config.latency)
    (out / "detections.json").write_text(json.dumps(found.detections), encoding="utf-8")
    (out / "curves.json").write_text(json.dumps(found.curves, allow_nan=False), encoding="utf-8")
    write_facts(out, _report(facts, found.accuracy, measured, None))
    return Report(out)


def _latency(predictor: Predictor, images: Sequence[Path], config: LatencyConfig) -> Latency:
    chosen = np.unique(np.linspace(0, len(images) - 1, min(LATENCY_IMAGES, len(images))).round().astype(int))
    decoded: list[NDArray[np.uint8]] = [preprocess.load_image(images[index]) for index in chosen.tolist()]
    return latency.measure(predictor, decoded, warmup=config.warmup, min_passes=config.min_passes, min_seconds=config.min_seconds)


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
