from collections.abc import Callable

import numpy as np
import onnx_samples
import pytest
from artifact_samples import QUIET
from clock import Clock

from deploy.contract import Latency
from deploy.latency import measure
from deploy.latency.measure import Latencies, LatencyProtocol
from deploy.precision import Batch
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Raw, Session

IMAGES = [np.full((64, 64, 3), value, np.uint8) for value in (0, 100, 200)]


class Slow(Session):
    """Takes a given time of the clock, which may depend on the number of the pass, and remembers what it saw."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float] = lambda _: 0.001) -> None:
        self.clock = clock
        self.seconds = seconds
        self.seen: list[float] = []

    def infer(self, images: Batch) -> Raw:
        self.seen.append(float(images.max()))
        self.clock.seconds += self.seconds(len(self.seen))
        shape = (1, 1)
        return Raw(np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.int64), np.ones(1, bool))

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    made.replace(monkeypatch, "deploy.latency.measure.perf_counter", "deploy.prediction.predictor.perf_counter_ns")
    monkeypatch.setattr("deploy.latency.measure.Watch.seen", lambda _: QUIET)
    return made


def together(sessions: dict[str, Slow], **protocol: float) -> Latencies:
    engines = {name: SessionPredictor(session, onnx_samples.contract()) for name, session in sessions.items()}
    return measure.measure_together(engines, IMAGES, LatencyProtocol.model_validate(protocol))


def alone(session: Slow, **protocol: float) -> Latency:
    return together({"own": session}, **protocol).latencies["own"]


def test_warm_up_and_the_first_passes_of_a_block_are_not_counted_and_every_image_takes_its_turn(clock: Clock) -> None:
    session = Slow(clock, lambda _: 0.005)
    result = alone(session, warmup=4, min_passes=60, min_seconds=0, block_ms=15)
    assert result.num_passes == 72  # 24 blocks of 3: the first look is at 12 blocks, with 36 passes
    assert len(session.seen) == 4 + 24 * 6
    assert session.seen[4:7] == session.seen[7:10]
    assert len(set(session.seen[4:7])) == 3


def test_the_shortest_time_counts_beside_the_fewest_passes(clock: Clock) -> None:
    result = alone(Slow(clock, lambda _: 0.125), warmup=3, min_passes=1, min_seconds=2.0)
    assert (result.num_passes, result.seconds) == (24, 3.0)  # 12 blocks of one pass last 1.5 s


def test_a_slow_pass_is_kept(clock: Clock) -> None:
    session = Slow(clock, lambda number: 0.1 if number == 25 else 0.001)
    result = alone(session, warmup=1, min_passes=100, min_seconds=0, block_ms=10)
    assert result.num_passes == 120
    assert result.seconds == pytest.approx(0.219)
    for part in (result.infer, result.end_to_end):
        assert (part.p50, part.p95, part.p99) == pytest.approx((1, 1, 1))
    assert measure.percentiles([1.0] * 98 + [1000.0] * 2).p99 == 1000
    assert result.high is not None
    assert result.high.p99 > 1  # some draws hold the slow pass more than once


def test_percentiles_by_hand() -> None:
    found = measure.percentiles(list(range(101)))
    assert (found.p50, found.p90, found.p95, found.p99) == (50, 90, 95, 99)


def test_the_ratio_of_steady_engines_is_exact(clock: Clock) -> None:
    found = together({"slow": Slow(clock, lambda _: 0.006), "fast": Slow(clock, lambda _: 0.002)}, min_passes=50, min_seconds=0)
    ratio = found.ratios["slow"]["fast"]
    assert (ratio.ratio, ratio.low, ratio.high) == pytest.approx((3, 3, 3))
    assert found.ratios["fast"]["slow"].ratio == pytest.approx(1 / 3)
    assert found.settled
    assert found.latencies["slow"].num_passes == found.latencies["fast"].num_passes >= 50
    assert found.warning() is None


def test_a_machine_that_becomes_slower_moves_the_milliseconds_and_not_the_ratio(clock: Clock) -> None:
    def slowing(seconds: float) -> Callable[[int], float]:
        return lambda _: seconds * (1 + clock.seconds)

    protocol = {"min_passes": 200, "min_seconds": 0, "warmup": 1}
    found = together({"slow": Slow(clock, slowing(0.004)), "fast": Slow(clock, slowing(0.002))}, **protocol)
    assert found.latencies["fast"].end_to_end.p50 > 2.2
    ratio = found.ratios["slow"]["fast"]
    assert ratio.low <= 2 <= ratio.high
    assert ratio.high / ratio.low < 1.1
    assert found.drift > measure.MAX_DRIFT
    assert str(found.warning()).startswith("all engines became ")


def test_pauses_for_other_processes_move_the_medians_and_not_the_ratio(clock: Clock) -> None:
    random = np.random.default_rng(1)

    def interrupted(seconds: float) -> Callable[[int], float]:
        """Others take the core for 9 ms after 3 ms of computing on average."""
        return lambda _: seconds + 0.009 * random.poisson(seconds / 0.003)

    sessions = {"slow": Slow(clock, interrupted(0.0032)), "fast": Slow(clock, interrupted(0.002))}
    found = together(sessions, min_passes=100, min_seconds=0, budget_seconds=40)
    ratio = found.ratios["slow"]["fast"]
    assert ratio.low <= 1.6 <= ratio.high
    assert ratio.high / ratio.low < 1.2
    medians = {name: one.end_to_end.p50 for name, one in found.latencies.items()}
    assert not 1.4 < medians["slow"] / medians["fast"] < 1.8


def test_twins_on_a_noisy_machine_are_not_told_apart(clock: Clock) -> None:
    random = np.random.default_rng(1)

    def noisy(_: int) -> float:
        return float(0.002 + random.exponential(0.002))

    found = together({"one": Slow(clock, noisy), "twin": Slow(clock, noisy)}, min_passes=100, min_seconds=0, budget_seconds=20)
    ratio = found.ratios["one"]["twin"]
    assert ratio.low <= 1 <= ratio.high
    assert ratio.high - ratio.low < 0.3


def test_the_budget_ends_a_measurement_that_does_not_settle_and_the_fewest_passes_do_not(clock: Clock) -> None:
    random = np.random.default_rng(1)

    def wild(_: int) -> float:
        return float(random.choice((0.001, 0.1)))

    found = together({"one": Slow(clock, wild), "other": Slow(clock, wild)}, min_passes=10, min_seconds=0, budget_seconds=5)
    assert not found.settled
    assert 5 <= found.seconds < 7
    assert "time was up" in str(found.warning())
    found = together({"one": Slow(clock, wild)}, min_passes=500, min_seconds=0, budget_seconds=1)
    assert found.latencies["one"].num_passes >= 500


def test_ratios_that_are_known_when_time_is_up_are_settled(clock: Clock) -> None:
    sessions = {"slow": Slow(clock, lambda _: 0.006), "fast": Slow(clock, lambda _: 0.002)}
    found = together(sessions, min_passes=50, min_seconds=2, budget_seconds=2)
    assert found.rounds > measure.MIN_ROUNDS
    assert found.latencies["fast"].seconds < 2  # so that it did not end before
    assert (found.settled, found.warning()) == (True, None)
    few = together(sessions, min_passes=1, min_seconds=2, budget_seconds=0.1, block_ms=1)
    assert few.rounds < measure.MIN_ROUNDS
    assert not few.settled  # so few are alike by chance


def test_one_engine_has_no_ratios_to_settle(clock: Clock) -> None:
    found = together({"own": Slow(clock)}, min_passes=10, min_seconds=2, budget_seconds=0.01)
    assert found.rounds < measure.MIN_ROUNDS
    assert (found.settled, found.warning()) == (True, None)


def test_one_engine_has_no_ratio(clock: Clock) -> None:
    assert together({"own": Slow(clock)}, min_passes=10, min_seconds=0).ratios == {"own": {}}


def test_nothing_to_measure_is_an_error(clock: Clock) -> None:
    engine = SessionPredictor(Slow(clock), onnx_samples.contract())
    with pytest.raises(ValueError, match="no image"):
        measure.measure_together({"own": engine}, [], LatencyProtocol())
    with pytest.raises(ValueError, match="no engine"):
        measure.measure_together({}, IMAGES, LatencyProtocol())
