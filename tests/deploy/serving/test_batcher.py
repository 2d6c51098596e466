"""Several requests, one pass of the engine."""

import threading
from time import monotonic
from typing import Any

import numpy as np
import pytest

from deploy.errors import ArtifactError
from deploy.runtimes import Raw, Session
from deploy.serving.batcher import Batcher
from deploy.serving.refusals import Busy, Expired


class Slow(Session):
    """An engine that waits to be let through, and tells batches apart."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.sizes: list[int] = []

    def infer(self, images: Any) -> Raw:
        self.free.wait(10)
        self.sizes.append(len(images))
        if (images < 0).any():
            raise ArtifactError("a negative image")
        count = len(images)
        scores = images.reshape(count, -1)[:, :1].astype(np.float32)
        return Raw(np.zeros((count, 1, 4), np.float32), scores, np.zeros((count, 1), np.int64), np.ones(count, np.bool_))

    def close(self) -> None:
        """Nothing is open."""


def one(value: float, count: int = 1) -> Any:
    return np.full((count, 1, 1, 1), value, np.float32)


class TestBatcher:
    @pytest.fixture
    def slow(self) -> Slow:
        return Slow()

    def batcher(self, *sessions: Session, **options: Any) -> Any:
        return Batcher(sessions, **{"max_batch_size": 4, **options})

    def test_what_waits_passes_together_and_each_gets_its_own(self, slow: Slow) -> None:
        batcher = self.batcher(slow)
        first = batcher.submit(one(1), monotonic() + 10)
        while batcher._jobs:
            pass
        rest = [batcher.submit(one(value, count), monotonic() + 10) for value, count in ((2, 1), (3, 2), (4, 2), (5, 1))]
        slow.free.set()
        assert [future.result(10).raw.scores.ravel().tolist() for future in (first, *rest)] == [[1], [2], [3, 3], [4, 4], [5]]
        assert slow.sizes == [1, 3, 3]
        batcher.close()

    def test_cancelled_and_late_jobs_never_reach_the_engine(self, slow: Slow) -> None:
        batcher = self.batcher(slow)
        first = batcher.submit(one(1), monotonic() + 10)
        while batcher._jobs:
            pass
        gone, late, kept = (batcher.submit(one(value), monotonic() + seconds) for value, seconds in ((2, 10), (3, -1), (4, 10)))
        assert gone.cancel()
        slow.free.set()
        assert (first.result(10).raw.scores.item(), kept.result(10).raw.scores.item()) == (1, 4)
        with pytest.raises(Expired):
            late.result(10)
        assert slow.sizes == [1, 1]
        batcher.close()

    def test_one_job_s_failure_is_its_own(self, slow: Slow) -> None:
        batcher = self.batcher(slow)
        first = batcher.submit(one(1), monotonic() + 10)
        while batcher._jobs:
            pass
        good, bad = (batcher.submit(one(value), monotonic() + 10) for value in (2, -1))
        slow.free.set()
        assert (first.result(10).raw.scores.item(), good.result(10).raw.scores.item()) == (1, 2)
        with pytest.raises(ArtifactError, match="negative"):
            bad.result(10)
        batcher.close()

    def test_a_delay_gathers_more_and_ends(self, slow: Slow) -> None:
        slow.free.set()
        batcher = self.batcher(slow, max_delay_s=0.2)
        futures = [batcher.submit(one(value), monotonic() + 10) for value in (1, 2, 3)]
        assert [future.result(10).raw.scores.item() for future in futures] == [1, 2, 3]
        assert slow.sizes == [3]
        full = [batcher.submit(one(value), monotonic() + 10) for value in (1, 2, 3, 4)]
        assert all(future.result(0.15) for future in full)
        batcher.close()

    def test_closing_finishes_what_is_queued_and_takes_no_more(self, slow: Slow) -> None:
        batcher = self.batcher(slow, max_batch_size=1)
        futures = [batcher.submit(one(value), monotonic() + 10) for value in (1, 2, 3)]
        slow.free.set()
        batcher.close()
        assert [future.result(0).raw.scores.item() for future in futures] == [1, 2, 3]
        with pytest.raises(Busy):
            batcher.submit(one(1), monotonic() + 10)

    def test_sessions_work_side_by_side(self) -> None:
        sessions = Slow(), Slow()
        batcher = self.batcher(*sessions, max_batch_size=1)
        futures = [batcher.submit(one(value), monotonic() + 10) for value in (1, 2)]
        while batcher._jobs:
            pass
        for session in sessions:
            session.free.set()
        assert sorted(future.result(10).raw.scores.item() for future in futures) == [1, 2]
        assert [session.sizes for session in sessions] == [[1], [1]]
        batcher.close()
