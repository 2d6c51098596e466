"""Engines that take turns, on a clock of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_samples
import pytest
from clock import Clock

from deploy.comparison.interleaved import Compared, InterleavedProtocol, Turns, take_turns
from deploy.precision import Batch
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Raw, Session


@dataclass
class Sleeper(Session):
    """Answers after so many milliseconds of the clock, nothing found."""

    clock: Clock
    milliseconds: Callable[[], float]

    def infer(self, images: Batch) -> Raw:
        self.clock.seconds += self.milliseconds() / 1e3
        zeros = np.zeros((len(images), 8), np.float32)
        return Raw(np.zeros((len(images), 8, 4), np.float32), zeros, zeros.astype(np.int64), np.ones(len(images), np.bool_))

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of everything that measures engines here: nothing else takes time."""
    made = Clock()
    made.replace(monkeypatch, "deploy.comparison.interleaved.perf_counter", "deploy.prediction.predictor.perf_counter_ns")
    return made


IMAGE = [onnx_samples.picture({})]
SHORT = InterleavedProtocol(block_ms=4, min_blocks=12, max_seconds=3, warmup_seconds=0.1)


@dataclass
class Engines:
    """Pairs of engines that take turns on the clock."""

    clock: Clock

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def noisy(self, milliseconds: float) -> Callable[[], float]:
        """About so many, each time a little otherwise."""
        return lambda: float(milliseconds * np.exp(self.rng.normal(0, 0.05)))

    def turns(self, own: Callable[[], float], other: Callable[[], float], limit: float, **options: Any) -> Compared:
        """Compare the median share of the engine's own time, unless the options say otherwise."""
        given = {"percentile": 50, "relative": True, "protocol": SHORT, **options}
        first, second = (SessionPredictor(Sleeper(self.clock, taken), onnx_samples.contract()) for taken in (own, other))
        return take_turns(first, second, IMAGE, value=lambda timings: timings.infer_ms, limit=limit, **given)


@pytest.fixture
def engines(clock: Clock) -> Engines:
    return Engines(clock)


def test_engines_that_take_turns(engines: Engines) -> None:
    seen = engines.turns(engines.noisy(1.5), engines.noisy(1.0), 0.1)
    assert seen.effect.verdict(0.1) == "fail"
    assert seen.effect.change == pytest.approx(0.5, abs=0.05)
    assert 0 < seen.effect.low < seen.effect.change < seen.effect.high
    assert seen.own_ms == pytest.approx(1.5, rel=0.05)
    assert seen.enough
    assert seen.blocks == 12  # clear at the first look
    assert engines.turns(engines.noisy(1.0), engines.noisy(1.0), 0.5).effect.verdict(0.5) == "pass"
    assert engines.turns(engines.noisy(1.5), engines.noisy(1.0), 0.8, relative=False).effect.change == pytest.approx(0.5, abs=0.05)


def test_the_budget_ends_what_does_not_become_clear(engines: Engines) -> None:
    def either() -> float:
        return float(engines.rng.choice([0.5, 2.0]))

    seen = engines.turns(either, either, 0.0, protocol=SHORT.model_copy(update={"max_seconds": 0.3}))
    assert seen.effect.verdict(0.0) == "inconclusive"
    assert 0.3 <= seen.seconds < 0.3 + 2 * seen.passes / seen.blocks * 2.0 / 1e3  # at most one pair of blocks late


def test_the_looks_are_those_that_fit_the_budget() -> None:
    assert InterleavedProtocol().looks == 6  # at 24, 48, 96, 192 and 384 blocks, and when the time is up
    assert InterleavedProtocol(max_seconds=1).looks == 2
    assert InterleavedProtocol(max_seconds=120).looks == 8


def test_engines_that_become_faster_are_not_looked_at_more_often(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look has its share of the error rate, by the number of blocks that were expected."""
    looks, effect = [], Turns.effect

    def seen(turns: Turns, *given: Any, **options: Any) -> Any:
        looks.append(len(turns.own))
        return effect(turns, *given, **options)

    usual = engines.noisy(0.4)

    def faster() -> float:
        return 4.0 if engines.clock.seconds < 0.2 else usual()

    monkeypatch.setattr(Turns, "effect", seen)
    protocol = SHORT.model_copy(update={"max_seconds": 1.0})
    found = engines.turns(faster, faster, 0.0, protocol=protocol)
    assert found.blocks > 768
    assert looks == [20, 40, 80, 160, found.blocks]  # ten passes lie beyond the median from the twentieth block on
    assert len(looks) == protocol.looks


def test_few_passes_say_nothing_of_a_tail(engines: Engines) -> None:
    def tailed() -> float:
        return 3.0 if engines.rng.random() < 0.02 else 0.3

    brief = SHORT.model_copy(update={"max_seconds": 0.4})
    seen = engines.turns(tailed, lambda: 0.3, 0.1, percentile=99, protocol=brief)
    assert seen.passes < 1000
    assert not seen.enough
    assert engines.turns(engines.noisy(0.5), engines.noisy(0.5), 9.0).enough
    assert [brief.least_passes(percentile) for percentile in (50, 90, 95, 99)] == [20, 100, 200, 1000]
