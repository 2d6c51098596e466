"""The fastest of several engines that are accurate enough, measured on this machine."""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from deploy import plugins
from deploy.accuracy.judge import LabeledSplit, defined, judge
from deploy.accuracy.spread import spread
from deploy.contract import ModelContract, Preprocessing
from deploy.engines.choice import Choice, Measured
from deploy.engines.request import BuildRequest
from deploy.errors import ArtifactError, BuildError
from deploy.precision import Precision
from deploy.prediction import image_files
from deploy.prediction.predictor import SessionPredictor

NUM_IMAGES = 32
ROUNDS = 4
"""Number of rounds over these images; the engines alternate at each image."""


class Offer(NamedTuple):
    """An engine's file, or why it could not be built. The accuracy of the other offers is compared with the first one's."""

    precision: Precision
    file: Path | None
    why: str | None


def choose(request: BuildRequest, offers: Sequence[Offer], contract: ModelContract, split: LabeledSplit) -> Choice:
    """Judge all offers on the split, and time those with valid answers alternately on some of its images.

    Raises:
        BuildError: the first offer has no engine.
        ArtifactError: the first engine's answer is invalid.
        DataError: mAP is undefined on the split, and there is a limit.
    """
    if offers[0].file is None:
        raise BuildError(offers[0].why or "no engine was built")
    runtime = plugins.load("deploy.runtimes", request.runtime)
    opened: dict[Precision, SessionPredictor] = {}
    maps: dict[Precision, float | None] = {}
    reasons = {precision: why for precision, _, why in offers}
    with ExitStack() as stack:
        for precision, file, _ in offers:
            if file is None:
                continue
            try:
                session = stack.enter_context(runtime.open(file, threads=request.threads, options=request.options))
                predictor = SessionPredictor(session, contract)
                maps[precision] = judge(predictor, split, f"auto: {precision}").accuracy.map
            except ArtifactError as error:
                if file == offers[0].file:
                    raise
                reasons[precision] = str(error)
            else:
                opened[precision] = predictor
        times = _take_turns(opened, split, contract.preprocessing)
    measured = tuple(Measured(precision=p, map=maps.get(p), p50_ms=times.get(p), why=reasons[p]) for p, _, _ in offers)
    good = [precision for precision in opened if _within(request.max_map_drop, maps[offers[0].precision], maps[precision])]
    return Choice(precision=min(good, key=lambda precision: times[precision]), limit=request.max_map_drop, offers=measured)


def _within(limit: float | None, first: float | None, own: float | None) -> bool:
    return limit is None or defined(first, limit) - defined(own, limit) <= limit


def _take_turns(predictors: dict[Precision, SessionPredictor], split: LabeledSplit, preprocessing: Preprocessing) -> dict[Precision, float]:
    """Median end-to-end milliseconds of each engine."""
    images = [image_files.load_image(file, preprocessing) for file in spread(split.images, NUM_IMAGES)]
    taken: dict[Precision, list[float]] = {precision: [] for precision in predictors}
    for turn in range(ROUNDS + 1):
        for image in images:
            for precision, predictor in predictors.items():
                milliseconds = predictor.timed(image)[1].end_to_end_ms
                if turn:  # the first round warms up
                    taken[precision].append(milliseconds)
    return {precision: statistics.median(values) for precision, values in taken.items()}
