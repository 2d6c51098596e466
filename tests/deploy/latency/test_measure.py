import itertools
import time

import numpy as np
import onnx_samples
import pytest

from deploy.contract import Latency
from deploy.latency import measure
from deploy.precision import Batch
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Raw, Session


class Slow(Session):
    """Sleeps for a given time, 10 times longer in every hundredth pass, and remembers what it saw."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.seen: list[float] = []

    def infer(self, images: Batch) -> Raw:
        self.seen.append(float(images.max()))
        time.sleep(self.seconds * (10 if len(self.seen) % 100 == 0 else 1))
        shape = (1, 1)
        return Raw(np.zeros((*shape, 4), np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.int64), np.ones(1, bool))

    def close(self) -> None:
        pass


def measured(session: Session, **protocol: float) -> Latency:
    images = [np.full((64, 64, 3), value, np.uint8) for value in (0, 100, 200)]
    return measure.measure(SessionPredictor(session, onnx_samples.contract()), images, **protocol)  # type: ignore[arg-type]


def test_warm_up_is_not_counted_and_every_image_takes_its_turn() -> None:
    session = Slow(0)
    result = measured(session, warmup=4, min_passes=7, min_seconds=0)
    assert result.num_passes == 7
    assert len(session.seen) == 11
    assert len(set(session.seen[4:7])) == 3
    assert session.seen[4] == session.seen[7] == session.seen[10]


def test_the_shortest_time_counts_beside_the_fewest_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(measure, "perf_counter", lambda: next(clock) / 10)  # a tenth of a second a pass
    result = measured(Slow(0), warmup=0, min_passes=1, min_seconds=2.0)
    assert 20 <= result.num_passes <= 22
    assert result.seconds >= 2


def test_a_slow_pass_is_kept() -> None:
    result = measured(Slow(0.001), warmup=0, min_passes=100, min_seconds=0)
    assert result.infer.p50 >= 1
    assert result.end_to_end.p50 >= result.infer.p50
    assert measure.percentiles([1.0] * 98 + [1000.0] * 2).p99 == 1000


def test_percentiles_by_hand() -> None:
    found = measure.percentiles(list(range(101)))
    assert (found.p50, found.p90, found.p95, found.p99) == (50, 90, 95, 99)


def test_no_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="no image"):
        measure.measure(SessionPredictor(Slow(0), onnx_samples.contract()), [])
