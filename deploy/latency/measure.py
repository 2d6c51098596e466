"""Latency of several engines on this machine, measured together: they alternate in short blocks of passes, in random order.

Whatever slows the machine down affects all of them alike, so the ratios of their mean times hold even if it spoils their milliseconds.
Blocks, not passes, are resampled for the intervals, because neighboring passes are correlated (Efron & Tibshirani, "An Introduction to
the Bootstrap", 1993; percentile intervals).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from deploy.contract import Frozen, Latency, Percentiles, Ratio
from deploy.machine.load import Load, Watch
from deploy.prediction.predictor import SessionPredictor, Timings

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)
RESAMPLES = 1000
COVERAGE = 0.95
MIN_ROUNDS = 12
"""Fewer blocks per engine do not show how much they vary."""
UNCOUNTED = 5
"""Passes at the start of a block that are not counted, at most as many as are; a block of a slow engine is one pass."""
MAX_DRIFT = 0.05
"""A larger common change of all engines' times is reported."""


class LatencyProtocol(Frozen):
    """How long to measure.

    Each engine first runs `warmup` passes. A round is one block of about `block_ms` of every engine. Measuring ends when every engine has
    `min_passes` and `min_seconds` and all ratios are known to `ratio_width`, as a share of the ratio, or after `budget_seconds`, which
    never cuts off `min_passes`.
    """

    warmup: int = 20
    min_passes: int = 100
    min_seconds: float = 2.0
    ratio_width: float = 0.03
    budget_seconds: float = 45.0
    block_ms: float = 25.0


class Latencies(Frozen):
    """Latencies by engine; `ratios[a][b]` is how many times as long as b engine a takes on average.

    `settled` is false if not all ratios were known to the requested width when the budget was spent. `drift` is how much slower all
    engines together were in the last quarter than in the first, as a fraction. `load` is the machine's other activity.
    """

    latencies: dict[str, Latency]
    ratios: dict[str, dict[str, Ratio]]
    rounds: int
    seconds: float
    settled: bool
    drift: float
    load: Load

    def warning(self) -> str | None:
        """What disturbed the measurement, in one clause; None if nothing did."""
        words = [self.load.warning()]
        if abs(self.drift) > MAX_DRIFT:
            words.append(f"all engines became {abs(self.drift):.0%} {'slower' if self.drift > 0 else 'faster'} on the way")
        if not self.settled:
            words.append("time was up before all ratios were settled")
        return " and ".join(word for word in words if word) or None


@dataclass(frozen=True)
class Passes:
    """All passes of the engines: end-to-end milliseconds [rounds, passes per block], and their parts."""

    blocks: dict[str, list[list[Timings]]]

    @property
    def rounds(self) -> int:
        """The number of blocks of each engine."""
        return len(next(iter(self.blocks.values())))

    def totals(self) -> dict[str, Floats]:
        """End-to-end milliseconds by engine, [rounds, passes per block]."""
        return {name: np.array([[one.end_to_end_ms for one in block] for block in blocks]) for name, blocks in self.blocks.items()}


def measure_together(
    engines: Mapping[str, SessionPredictor], images: Sequence[Image], protocol: LatencyProtocol, *, seed: int = 0
) -> Latencies:
    """Detect in one image after another with every engine, repeating the images as needed, and keep every pass.

    The first passes of each block are made twice and counted once: the caches still hold another engine's data.

    Args:
        engines: at least one, by name.
        images: decoded, [H, W, 3] RGB; at least one.

    Raises:
        ArtifactError: an engine's answer is invalid.
    """
    if not images or not engines:
        raise ValueError("no image to measure latency on" if engines else "no engine to measure")
    slowest = max(_warm(engine, images, protocol.warmup) for engine in engines.values())
    length, order = max(1, round(protocol.block_ms / slowest)), random.Random(seed)  # noqa: S311 - decides who begins
    passes, supply, watch, start = Passes({name: [] for name in engines}), cycle(images), Watch(), perf_counter()
    look, done = MIN_ROUNDS, False
    while not done and not _spent(passes, length, perf_counter() - start, protocol):
        chosen = list(islice(supply, length))
        for name in order.sample(list(engines), len(engines)):
            passes.blocks[name].append(_block(engines[name], chosen))
        if passes.rounds >= look:
            look = 2 * passes.rounds
            done = _enough(passes, protocol) and _settled(_ratios(passes.totals()), passes.rounds, protocol)
    totals = passes.totals()
    ratios = _ratios(totals)
    return Latencies(
        latencies={name: _latency(blocks, totals[name]) for name, blocks in passes.blocks.items()},
        ratios=ratios,
        rounds=passes.rounds,
        seconds=perf_counter() - start,
        settled=_settled(ratios, passes.rounds, protocol),
        drift=_drift(totals),
        load=watch.seen(),
    )


def percentiles(milliseconds: Sequence[float] | Floats) -> Percentiles:
    """The percentiles of all values, outliers included."""
    return _named(np.percentile(milliseconds, PERCENTILES))


def _warm(engine: SessionPredictor, images: Sequence[Image], passes: int) -> float:
    """The median of the last passes, in milliseconds."""
    taken = [engine.timed(images[number % len(images)])[1].end_to_end_ms for number in range(max(1, passes))]
    return max(median(taken[-8:]), 1e-3)


def _block(engine: SessionPredictor, images: Sequence[Image]) -> list[Timings]:
    for image in images[:UNCOUNTED]:
        engine.detect(image)
    return [engine.timed(image)[1] for image in images]


def _spent(passes: Passes, length: int, seconds: float, protocol: LatencyProtocol) -> bool:
    return seconds >= protocol.budget_seconds and passes.rounds >= 2 and passes.rounds * length >= protocol.min_passes


def _enough(passes: Passes, protocol: LatencyProtocol) -> bool:
    """Whether every engine has the requested number and time of passes."""
    return all(values.size >= protocol.min_passes and values.sum() >= protocol.min_seconds * 1e3 for values in passes.totals().values())


def _drawn(rounds: int) -> NDArray[np.intp]:
    """Rounds drawn with replacement, [RESAMPLES, rounds]; the same ones for all engines."""
    return np.random.default_rng(0).integers(0, rounds, (RESAMPLES, rounds))


def _ratios(totals: Mapping[str, Floats]) -> dict[str, dict[str, Ratio]]:
    """The ratios of mean times, each engine against each other one.

    Other processes interrupt a pass as often as it is long, so they stretch all means by one factor; medians and percentiles of short
    passes hardly move while those of longer ones take in whole pauses, or the reverse.
    """
    rows = _drawn(len(next(iter(totals.values()))))
    points = {name: float(values.mean()) for name, values in totals.items()}
    drawn = {name: values.mean(axis=1)[rows].mean(axis=1) for name, values in totals.items()}
    return {a: {b: _ratio(points[a] / points[b], drawn[a] / drawn[b]) for b in totals if b != a} for a in totals}


def _ratio(point: float, drawn: Floats) -> Ratio:
    low, high = np.quantile(drawn, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)).tolist()
    return Ratio(ratio=point, low=min(low, point), high=max(high, point))


def _settled(ratios: Mapping[str, Mapping[str, Ratio]], rounds: int, protocol: LatencyProtocol) -> bool:
    """Whether all ratios are known to the requested width: how narrow intervals are, not where, so it may be asked at any time."""
    widest = max(((one.high - one.low) / one.ratio for others in ratios.values() for one in others.values()), default=None)
    return widest is None or (rounds >= MIN_ROUNDS and widest <= protocol.ratio_width)


def _latency(blocks: Sequence[Sequence[Timings]], totals: Floats) -> Latency:
    passes = [one for block in blocks for one in block]
    drawn = np.array([np.percentile(totals[chosen], PERCENTILES) for chosen in _drawn(len(totals))])
    low, high = np.quantile(drawn, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2), axis=0)
    return Latency(
        pre=percentiles([one.pre_ms for one in passes]),
        infer=percentiles([one.infer_ms for one in passes]),
        post=percentiles([one.post_ms for one in passes]),
        end_to_end=percentiles([one.end_to_end_ms for one in passes]),
        num_passes=len(passes),
        seconds=float(totals.sum()) / 1e3,
        low=_named(low),
        high=_named(high),
    )


def _named(values: Floats) -> Percentiles:
    p50, p90, p95, p99 = values.tolist()
    return Percentiles(p50=p50, p90=p90, p95=p95, p99=p99)


def _drift(totals: Mapping[str, Floats]) -> float:
    """The change of the engines' medians from the first quarter of the rounds to the last, averaged over the engines."""
    quarter = max(1, len(next(iter(totals.values()))) // 4)
    changes = [np.median(values[-quarter:]) / np.median(values[:quarter]) - 1 for values in totals.values()]
    return float(np.mean(changes))
