"""Several requests, one pass of the engine."""

import threading
from concurrent.futures import Future
from time import monotonic
from typing import Any

import numpy as np
import pytest
from clock import Clock
from waiting import PATIENCE, join, until

from deploy.errors import ArtifactError
from deploy.runtimes import Raw, Session
from deploy.serving.batcher import Batcher, JobResult
from deploy.serving.refusals import Busy, Expired


class SlowSession(Session):
    """An engine that waits to be let through, and tells batches apart."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.sizes: list[int] = []

    def infer(self, images: Any) -> Raw:
        assert self.free.wait(PATIENCE)
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


def submit(batcher: Batcher, value: float, count: int = 1, seconds: float = PATIENCE) -> "Future[JobResult]":
    return batcher.submit(one(value, count), monotonic() + seconds)


def scores(*futures: "Future[JobResult]") -> list[list[float]]:
    return [future.result(PATIENCE).raw.scores.ravel().tolist() for future in futures]


def taken(batcher: Batcher) -> None:
    """Wait until every job so far is in an engine's hands."""
    until(lambda: not batcher._jobs, "an engine to take the jobs")


class TestBatcher:
    @pytest.fixture
    def slow(self) -> SlowSession:
        return SlowSession()

    def batcher(self, *sessions: Session, **options: Any) -> Batcher:
        return Batcher(sessions, **{"max_batch_size": 4, **options})

    def test_what_waits_passes_together_and_each_gets_its_own(self, slow: SlowSession) -> None:
        batcher = self.batcher(slow)
        first = submit(batcher, 1)
        taken(batcher)
        rest = [submit(batcher, value, count) for value, count in ((2, 1), (3, 2), (4, 2), (5, 1))]
        slow.free.set()
        assert scores(first, *rest) == [[1], [2], [3, 3], [4, 4], [5]]
        assert slow.sizes == [1, 3, 3]
        batcher.close()

    def test_clients_take_turns(self, slow: SlowSession) -> None:
        batcher = self.batcher(slow, max_batch_size=2)
        first = submit(batcher, 1)
        taken(batcher)
        asked = [("many", 2.0), ("many", 3.0), ("many", 4.0), ("many", 5.0), ("few", 6.0), ("other", 7.0), ("few", 8.0)]
        order: list[float] = []
        for client, value in asked:
            future = batcher.submit(one(value), monotonic() + PATIENCE, client)
            future.add_done_callback(lambda done: order.append(done.result().raw.scores.item()))
        slow.free.set()
        assert scores(first) == [[1]]
        batcher.close()
        assert order == [2, 6, 7, 3, 8, 4, 5]

    def test_cancelled_and_late_jobs_never_reach_the_engine(self, slow: SlowSession) -> None:
        batcher = self.batcher(slow)
        first = submit(batcher, 1)
        taken(batcher)
        gone, late, kept = submit(batcher, 2), submit(batcher, 3, seconds=-1), submit(batcher, 4)
        assert gone.cancel()
        slow.free.set()
        assert scores(first, kept) == [[1], [4]]
        with pytest.raises(Expired, match="while it was queued"):
            late.result(PATIENCE)
        assert slow.sizes == [1, 1]
        batcher.close()

    def test_one_job_s_failure_is_its_own(self, slow: SlowSession) -> None:
        batcher = self.batcher(slow)
        first = submit(batcher, 1)
        taken(batcher)
        good, bad = submit(batcher, 2), submit(batcher, -1)
        slow.free.set()
        assert scores(first, good) == [[1], [2]]
        with pytest.raises(ArtifactError, match="negative"):
            bad.result(PATIENCE)
        assert slow.sizes == [1, 2, 1, 1]
        batcher.close()

    def test_a_delay_gathers_more_until_it_ends_or_the_batch_is_full(self, slow: SlowSession, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock(monotonic())
        clock.replace(monkeypatch, "deploy.serving.batcher.monotonic")
        slow.free.set()
        batcher = self.batcher(slow, max_delay_s=0.02)
        some = [submit(batcher, value) for value in (1, 2, 3)]
        until(lambda: clock.reads > 10, "the batcher to look at the clock again and again")
        assert len(batcher._jobs) == 3  # it stands still, and so do they
        clock.seconds += PATIENCE / 2
        assert scores(*some) == [[1], [2], [3]]
        assert slow.sizes == [3]
        clock.seconds = monotonic()
        assert scores(*[submit(batcher, value) for value in (1, 2, 3, 4)]) == [[1], [2], [3], [4]]
        assert slow.sizes == [3, 4]
        batcher.close()

    def test_closing_finishes_what_is_queued_and_takes_no_more(self, slow: SlowSession) -> None:
        batcher = self.batcher(slow, max_batch_size=1)
        futures = [submit(batcher, value) for value in (1, 2, 3)]
        closing = threading.Thread(target=batcher.close, daemon=True)
        closing.start()
        until(lambda: batcher._closed, "the batcher to close")
        with pytest.raises(Busy, match="is being closed"):
            submit(batcher, 1)
        assert not any(future.done() for future in futures)
        slow.free.set()
        join(closing)
        assert [future.result(0).raw.scores.item() for future in futures] == [1, 2, 3]

    def test_sessions_work_side_by_side(self) -> None:
        sessions = SlowSession(), SlowSession()
        batcher = self.batcher(*sessions, max_batch_size=1)
        futures = [submit(batcher, value) for value in (1, 2)]
        taken(batcher)
        for session in sessions:
            session.free.set()
        assert scores(*futures) == [[1], [2]]
        assert [session.sizes for session in sessions] == [[1], [1]]
        batcher.close()
