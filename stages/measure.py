"""Measures the latency of all engines that run on this machine, in one measurement."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deploy import machine
from deploy.contract import Preprocessing
from deploy.errors import RuntimeUnavailable
from deploy.latency.measure import LatencyProtocol, measure_together
from deploy.prediction.predictor import SessionPredictor
from stages.artifacts import Dataset, Engine, Measurement
from stages.config import LatencyConfig
from stages.facts import MeasurementFacts, write_facts
from stages.measurement import latency_images
from stages.measurement.sessions import open_session
from stages.measurement.splits import labeled_split
from stages.stage import stage


def identity(*args: object) -> Mapping[str, Any]:
    """The machine; the runtimes' identities are already part of the engines' hashes."""
    return machine.identity()


@stage(version=3, identity=identity)
def measure(out: Path, latency: LatencyConfig, split: str, engines: Mapping[str, Engine], dataset: Dataset | None) -> Measurement:
    """Alternate between the engines, see deploy.latency.measure; engines that cannot run on this machine are left out, with the reason.

    Without data, gray noise takes the images' place.

    Raises:
        DataError: the data has no such split, or it is empty.
        ArtifactError: an engine is damaged, or its answer is invalid.
    """
    files = labeled_split(dataset, split).images if dataset is not None else ()
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        predictors = {}
        for name, engine in engines.items():
            try:
                session = stack.enter_context(open_session(engine, latency.threads))
            except RuntimeUnavailable as error:
                left_out[name] = str(error)
            else:
                predictors[name] = SessionPredictor(session, engine.facts.contract)
        images = latency_images.of(files, _preprocessing(engines)) if predictors else []
        found = measure_together(predictors, images, _protocol(latency)) if predictors else None
    write_facts(out, MeasurementFacts(measured=found, left_out=left_out, machine=machine.identity()))
    return Measurement(out)


def _preprocessing(engines: Mapping[str, Engine]) -> Preprocessing:
    """All engines' preprocessing, which is the same for all networks of a run."""
    return next(iter(engines.values())).facts.contract.preprocessing


def _protocol(latency: LatencyConfig) -> LatencyProtocol:
    return LatencyProtocol(
        warmup=latency.warmup,
        min_passes=latency.min_passes,
        min_seconds=latency.min_seconds,
        ratio_width=latency.ratio_width,
        budget_seconds=latency.budget_seconds,
    )
