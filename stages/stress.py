"""Runs every engine on corrupted copies of the judged split's images; the copies are made on the fly, and only detections are kept."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from deploy import machine
from deploy.accuracy import corruptions
from deploy.accuracy.conditions import Condition, sweep
from deploy.accuracy.judge import LabeledSplit
from deploy.errors import RuntimeUnavailable
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import Steps, note
from stages.artifacts import Dataset, Engine, Stress
from stages.config import RobustnessConfig
from stages.facts import StressFacts, write_facts
from stages.measurement.robust import Detection, detect_under, swept_images
from stages.measurement.sessions import open_session
from stages.stage import stage


def identity(config: RobustnessConfig, *others: object) -> Mapping[str, Any]:
    """The machine, and the versions of everything that decides the pixels."""
    return {**machine.identity(), **corruptions.identity()}


@stage(version=3, identity=identity, resumable=True)
def stress(out: Path, config: RobustnessConfig, split: str, threads: int | None, engines: Mapping[str, Engine], dataset: Dataset) -> Stress:
    """Sweep all engines together, so that each image is corrupted once for all; conditions that a killed run finished are kept.

    Raises:
        RuntimeUnavailable: the extra is not installed.
        DataError: an image is too small, or cannot be read.
        ArtifactError: an engine is damaged, or its answer is invalid.
    """
    if (missing := corruptions.why_not()) is not None:
        raise RuntimeUnavailable(missing)
    assert config.corruptions is not None
    images = swept_images(config, split, dataset)
    corruptions.refuse_small(images)
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        predictors = {}
        for name, engine in engines.items():
            try:
                session = stack.enter_context(open_session(engine, threads))
            except RuntimeUnavailable as error:
                left_out[name] = str(error)
            else:
                predictors[name] = SessionPredictor(session, engine.facts.contract)
                (out / name).mkdir(exist_ok=True)
        _sweep(out, sweep(split, config.corruptions), predictors, images)
    library = corruptions.identity()
    facts = {"split": split, "mode": config.corruptions, "num_images": len(images.images), "library": library, "left_out": left_out}
    write_facts(out, StressFacts.model_validate(facts))
    return Stress(out)


def _sweep(out: Path, conditions: tuple[Condition, ...], predictors: Mapping[str, SessionPredictor], images: LabeledSplit) -> None:
    """Write out/<engine>/<corruption>-<severity>.json for the conditions that lack one."""
    names = {one: f"{one.corruption}-{one.severity}.json" for one in conditions}
    left = [one for one in conditions if not all((out / name / names[one]).exists() for name in predictors)]
    if not predictors or not left:
        return
    count = len(images.images)
    corruptions.load()  # takes seconds, which must not be expected of every condition
    began = time.perf_counter()
    with (
        Steps("stress", len(conditions) * count, (len(conditions) - len(left)) * count) as steps,
        closing(detect_under(left, predictors, images, steps)) as detected,
    ):
        for number, (condition, every) in enumerate(zip(left, detected, strict=True)):
            for name, found in every.items():
                _write(out / name / names[condition], found)
            if number == 0 and len(left) > 1:
                seconds = (time.perf_counter() - began) * (len(left) - 1)
                note(f"stress: {len(left) - 1} more conditions of {count} images, about {seconds / 60:.1f} minutes")


def _write(file: Path, found: Sequence[Detection]) -> None:
    """Completely or not at all: a killed run must not leave half a file that the next one takes for finished."""
    scratch = file.with_suffix(".partial")
    scratch.write_text(json.dumps(found), encoding="utf-8")
    scratch.replace(file)
