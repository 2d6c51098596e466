import numpy as np
import onnx_samples
import pytest
from clock import Clock

from deploy.contract import Latency
from deploy.latency import measure
from deploy.precision import Batch
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Raw, Session


class Slow(Session):
    """Takes a given time of the clock, 10 times longer in every hundredth pass, and remembers what it saw."""

    def __init__(self, clock: Clock, seconds: float = 0.0) -> None:
        self.clock = clock
        self.seconds = seconds
        self.seen: list[float] = []

    def infer(self, images: Batch) -> Raw:
        self.seen.append(float(images.max()))
        self.clock.seconds += self.seconds * (10 if len(self.seen) % 100 == 0 else 1)
        shape = (1, 1)
        return Raw(np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.int64), np.ones(1, bool))

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    made.replace(monkeypatch, "deploy.latency.measure.perf_counter", "deploy.prediction.predictor.perf_counter_ns")
    return made


def measured(session: Session, **protocol: float) -> Latency:
    images = [np.full((64, 64, 3), value, np.uint8) for value in (0, 100, 200)]
    return measure.measure(SessionPredictor(session, onnx_samples.contract()), images, **protocol)  # type: ignore[arg-type]


def test_warm_up_is_not_counted_and_every_image_takes_its_turn(clock: Clock) -> None:
    session = Slow(clock)
    result = measured(session, warmup=4, min_passes=7, min_seconds=0)
    assert result.num_passes == 7
    assert len(session.seen) == 11
    assert len(set(session.seen[4:7])) == 3
    assert session.seen[4] == session.seen[7] == session.seen[10]


def test_the_shortest_time_counts_beside_the_fewest_passes(clock: Clock) -> None:
    result = measured(Slow(clock, 0.125), warmup=3, min_passes=1, min_seconds=2.0)
    assert (result.num_passes, result.seconds) == (16, 2.0)


def test_a_slow_pass_is_kept(clock: Clock) -> None:
    result = measured(Slow(clock, 0.001), warmup=0, min_passes=100, min_seconds=0)
    assert result.seconds == pytest.approx(0.109)
    for part in (result.infer, result.end_to_end):
        assert (part.p50, part.p95, part.p99) == pytest.approx((1, 1, 1.09))  # of 99 values of 1 and one of 10
    assert (result.pre.p99, result.post.p99) == (0, 0)
    assert measure.percentiles([1.0] * 98 + [1000.0] * 2).p99 == 1000


def test_percentiles_by_hand() -> None:
    found = measure.percentiles(list(range(101)))
    assert (found.p50, found.p90, found.p95, found.p99) == (50, 90, 95, 99)


def test_no_image_is_an_error(clock: Clock) -> None:
    with pytest.raises(ValueError, match="no image"):
        measure.measure(SessionPredictor(Slow(clock), onnx_samples.contract()), [])
