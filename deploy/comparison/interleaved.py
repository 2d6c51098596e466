"""Compares the latency of two engines on this machine: they alternate in short blocks until the verdict is clear.

With interleaving, whatever slows the machine down affects both engines alike. Blocks, not passes, are resampled, because
neighboring passes are correlated. Measuring ends as soon as the interval lies on one side of the limit, or when the budget is spent.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from deploy.comparison.bootstrap import Floats, blocks
from deploy.comparison.interval import ERROR_RATE, Effect
from deploy.contract import Frozen
from deploy.machine.load import Load, Watch
from deploy.prediction.predictor import SessionPredictor, Timings

Image = NDArray[np.uint8]
Value = Callable[[Timings], float]


class InterleavedProtocol(Frozen):
    """How two engines are interleaved.

    A block is about `block_ms` of one engine, then of the other, in random order. The interval is examined after `min_blocks`, whenever
    their number has doubled, and at the end, `looks` times at most, each with an equal share of the error rate. Measuring ends after
    `max_seconds`. No verdict is possible until `tail` passes of each engine lie beyond the percentile.
    """

    block_ms: float = 25.0
    min_blocks: int = 24
    tail: float = 10.0
    max_seconds: float = 30.0
    warmup_seconds: float = 2.0

    @property
    def looks(self) -> int:
        """Maximum number of looks at the interval: at `min_blocks`, at each doubling that fits the budget, and at the end.

        Engines that become faster make more blocks, but not more looks.
        """
        most = self.max_seconds * 1e3 / (2 * self.block_ms)
        return 2 + max(0, math.floor(math.log2(max(1.0, most / self.min_blocks))))

    def least_passes(self, percentile: float) -> int:
        """Passes of each engine of which `tail` lie beyond a percentile."""
        return math.ceil(self.tail / (1 - percentile / 100) - 1e-6)


DEFAULT = InterleavedProtocol()
MIN_BLOCKS = 12
"""Fewer blocks do not show how much they vary."""


@dataclass
class Turns:
    """Times of both engines so far, [blocks, passes] in milliseconds."""

    own: list[list[float]] = field(default_factory=list)
    reference: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, sides: Sequence[SessionPredictor], images: Sequence[Image], value: Value, order: random.Random) -> None:
        """Measure one block of each engine, on the same images, in random order."""
        for index in order.sample((0, 1), 2):
            taken = [value(sides[index].timed(image)[1]) for image in images]
            (self.own, self.reference)[index].append(taken)

    def effect(self, percentile: float, protocol: InterleavedProtocol, *, relative: bool) -> Effect:
        """How much higher the percentile of `own` is."""
        own, reference = np.array(self.own), np.array(self.reference)
        error_rate = ERROR_RATE / protocol.looks
        return blocks(own, reference, lambda values: _percentile(values, percentile), relative=relative, error_rate=error_rate)

    def enough(self, percentile: float, protocol: InterleavedProtocol) -> bool:
        """Whether there are enough blocks and passes for any verdict on the percentile."""
        return len(self.own) >= MIN_BLOCKS and sum(map(len, self.own)) >= protocol.least_passes(percentile)


class Compared(Frozen):
    """The outcome; `load` is the machine's other activity. If `enough` is false, it supports no verdict."""

    effect: Effect
    enough: bool
    own_ms: float
    reference_ms: float
    blocks: int
    passes: int
    seconds: float
    load: Load


def take_turns(
    own: SessionPredictor,
    reference: SessionPredictor,
    images: Sequence[Image],
    *,
    value: Value,
    percentile: float,
    limit: float,
    relative: bool,
    protocol: InterleavedProtocol = DEFAULT,
    seed: int = 0,
) -> Compared:
    """Measure both until it is clear whether `own` is slower than `reference` by more than `limit`.

    Args:
        images: decoded, [H, W, 3] RGB; at least one, used in the same order by both.
        value: the part of a pass that is compared, in milliseconds.
        percentile: percentile over all passes, 0 to 100.
        limit: in milliseconds, or with `relative` as a fraction of the reference's value.

    Raises:
        ArtifactError: an engine's answer is invalid.
    """
    sides = (own, reference)
    length = max(1, round(protocol.block_ms / max(_warm(side, images, protocol) for side in sides)))
    shuffled = random.Random(seed)  # noqa: S311 - decides which engine begins
    supply = cycle(images)
    turns, watch, start = Turns(), Watch(), perf_counter()
    next_look, looks_left, clear = protocol.min_blocks, protocol.looks - 1, False  # one is kept for the end
    while not clear and turns.seconds < protocol.max_seconds:
        turns.add(sides, list(islice(supply, length)), value, shuffled)
        turns.seconds = perf_counter() - start
        if looks_left and len(turns.own) >= next_look and turns.enough(percentile, protocol):
            next_look, looks_left = 2 * len(turns.own), looks_left - 1
            clear = turns.effect(percentile, protocol, relative=relative).verdict(limit) != "inconclusive"
    own_ms, reference_ms = (float(np.percentile(side, percentile)) for side in (turns.own, turns.reference))
    return Compared(
        effect=turns.effect(percentile, protocol, relative=relative),
        enough=turns.enough(percentile, protocol),
        own_ms=own_ms,
        reference_ms=reference_ms,
        blocks=len(turns.own),
        passes=len(turns.own) * length,
        seconds=turns.seconds,
        load=watch.seen(),
    )


def _percentile(values: Floats, percentile: float) -> Floats:
    return np.asarray(np.percentile(values, percentile, axis=-1))


def _warm(side: SessionPredictor, images: Sequence[Image], protocol: InterleavedProtocol) -> float:
    """Run until two consecutive windows of passes differ by less than 3%, or time is up; the last window's median in milliseconds."""
    start, before = perf_counter(), float("inf")
    while True:
        window = [side.timed(images[number % len(images)])[1].end_to_end_ms for number in range(8)]
        now = median(window)
        if abs(now - before) < 0.03 * now or perf_counter() - start > protocol.warmup_seconds:
            return max(now, 1e-3)
        before = now
