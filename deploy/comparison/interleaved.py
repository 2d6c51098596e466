"""The latency of two engines compared on the machine at hand: they take turns in blocks until the verdict is clear.

Interleaving lets whatever slows the machine down hit both alike; blocks, not passes, are what is resampled, since the passes of
a moment resemble each other. It ends as soon as the interval lies on one side of the limit, or when the budget is spent.
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
    """How two engines take turns.

    A block is about `block_ms` of one engine, then of the other, in random order. After `min_blocks`, and whenever they have
    doubled, the interval is looked at; each of the `looks` that there may be errs by its share of the error rate. `max_seconds` of
    measuring end it. Before `tail` passes of each lie beyond the percentile, nothing is clear.
    """

    block_ms: float = 25.0
    min_blocks: int = 24
    tail: float = 10.0
    max_seconds: float = 30.0
    warmup_seconds: float = 2.0

    @property
    def looks(self) -> int:
        """How often the interval is looked at, at most: at `min_blocks`, at each doubling that fits the budget, and at its end."""
        most = self.max_seconds * 1e3 / (2 * self.block_ms)
        return 2 + max(0, math.floor(math.log2(max(1.0, most / self.min_blocks))))


DEFAULT = InterleavedProtocol()
MIN_BLOCKS = 12
"""Fewer say nothing of how they vary."""


@dataclass
class Turns:
    """What both engines took so far, [blocks, passes] in milliseconds."""

    own: list[list[float]] = field(default_factory=list)
    reference: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, sides: Sequence[SessionPredictor], images: Sequence[Image], value: Value, order: random.Random) -> None:
        """One block of each, on the same images, in random order."""
        for index in order.sample((0, 1), 2):
            taken = [value(sides[index].timed(image)[1]) for image in images]
            (self.own, self.reference)[index].append(taken)

    def effect(self, percentile: float, protocol: InterleavedProtocol, *, relative: bool) -> Effect:
        """By how much the own percentile is higher."""
        own, reference = np.array(self.own), np.array(self.reference)
        error_rate = ERROR_RATE / protocol.looks
        return blocks(own, reference, lambda values: _percentile(values, percentile), relative=relative, error_rate=error_rate)

    def enough(self, percentile: float, protocol: InterleavedProtocol) -> bool:
        """Whether there are blocks and passes enough for any verdict on the percentile."""
        beyond = sum(map(len, self.own)) * (1 - percentile / 100)
        return len(self.own) >= MIN_BLOCKS and beyond >= protocol.tail


class Compared(Frozen):
    """The outcome; `load` is what else the machine did meanwhile. Without `enough` passes nothing follows from it."""

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
        images: decoded, [H, W, 3] RGB; at least one, taken in the same order by both.
        value: the part of a pass that is compared, in milliseconds.
        percentile: of all passes, 0 to 100.
        limit: milliseconds, or with `relative` a share of the reference's.

    Raises:
        ArtifactError: an engine's answer cannot be used.
    """
    sides = (own, reference)
    length = max(1, round(protocol.block_ms / max(_warm(side, images, protocol) for side in sides)))
    shuffled = random.Random(seed)  # noqa: S311 - which engine begins
    supply = cycle(images)
    turns, watch, start = Turns(), Watch(), perf_counter()
    next_look, clear = protocol.min_blocks, False
    while not clear and turns.seconds < protocol.max_seconds:
        turns.add(sides, list(islice(supply, length)), value, shuffled)
        turns.seconds = perf_counter() - start
        if len(turns.own) >= next_look and turns.enough(percentile, protocol):
            next_look = 2 * len(turns.own)
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
    """Run until two windows of passes in a row differ by less than 3 %, or the time is up; the last one's median in milliseconds."""
    start, before = perf_counter(), float("inf")
    while True:
        window = [side.timed(images[number % len(images)])[1].end_to_end_ms for number in range(8)]
        now = median(window)
        if abs(now - before) < 0.03 * now or perf_counter() - start > protocol.warmup_seconds:
            return max(now, 1e-3)
        before = now
