"""Dynamic batching: requests that wait at the same time pass through the engine together.

One thread per session takes the next job and the jobs behind it, as long as the batch has room; it waits for more only if a
delay is set. Clients take turns, so that nobody waits behind everything that another one has queued. Cancelled jobs are skipped, late
ones expire. A failed pass is repeated job by job, so a job fails only on its own account.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from deploy.precision import Batch
from deploy.runtimes import Raw, Session
from deploy.serving.clients import FairQueue
from deploy.serving.refusals import Busy, Expired

_MEMORY = 0.9
"""Weight of the past in the running mean, which thus spans about ten passes."""


@dataclass(frozen=True)
class Pass:
    """One pass through the engine, for the metrics: its number of images, its duration, and the waiting time of each of its jobs."""

    num_images: int
    compute_s: float
    queue_s: tuple[float, ...]


@dataclass(frozen=True)
class JobResult:
    """A job's part of a pass, with the job's waiting time and the pass's duration."""

    raw: Raw
    queue_s: float
    compute_s: float


@dataclass(frozen=True)
class _Job:
    images: Batch
    deadline: float
    arrived: float = field(default_factory=monotonic)
    future: "Future[JobResult]" = field(default_factory=Future)


class Batcher:
    """Sessions behind one queue; the caller closes the sessions, after `close`.

    `seconds_each` is the time per image over all sessions together while the queue is busy; a running mean.
    """

    def __init__(
        self, sessions: Sequence[Session], *, max_batch_size: int, max_delay_s: float = 0.0, observe: Callable[[Pass], None] | None = None
    ) -> None:
        self.max_batch_size = max_batch_size
        self.seconds_each = 0.0
        self._last_end = 0.0
        self._max_delay_s = max_delay_s
        self._observe = observe
        self._jobs: FairQueue[_Job] = FairQueue()
        self._changed = threading.Condition()
        self._closed = False
        named = enumerate(sessions)
        self._threads = [threading.Thread(target=self._work, args=(one,), name=f"engine-{i}", daemon=True) for i, one in named]
        for thread in self._threads:
            thread.start()

    def submit(self, images: Batch, deadline: float, client: str = "") -> "Future[JobResult]":
        """Queue images [n, 3, H, W], n at most max_batch_size; cancelling the future skips them.

        Args:
            deadline: on time.monotonic's clock.
            client: who takes turns with others.

        Raises:
            Busy: the batcher is closed.
        """
        assert 1 <= len(images) <= self.max_batch_size
        job = _Job(images, deadline)
        with self._changed:
            if self._closed:
                raise Busy("the engine is being closed; retry later")
            self._jobs.append(client, job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Finish the queued jobs, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, session: Session) -> None:
        while jobs := self._take():
            self._run(session, jobs)

    def _take(self) -> list[_Job]:
        """The next batch; empty when closed and done."""
        with self._changed:
            while True:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return []
                self._await_more()
                if jobs := self._gather():
                    if self._jobs:
                        self._changed.notify()  # this thread may have consumed another's wake-up
                    return jobs

    def _await_more(self) -> None:
        first = self._jobs.first()
        until = min(first.arrived + self._max_delay_s, first.deadline - self.seconds_each)
        while self._jobs and not self._closed and sum(len(job.images) for job in self._jobs) < self.max_batch_size:
            left = until - monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _gather(self) -> list[_Job]:
        jobs: list[_Job] = []
        room = self.max_batch_size
        now = monotonic()
        while self._jobs and len(self._jobs.first().images) <= room:
            job = self._jobs.pop()
            if not job.future.set_running_or_notify_cancel():
                continue
            if job.deadline < now:
                job.future.set_exception(Expired("the request's time expired while it was queued"))
                continue
            jobs.append(job)
            room -= len(job.images)
        return jobs

    def _run(self, session: Session, jobs: list[_Job]) -> None:
        started = monotonic()
        try:
            raw = session.infer(jobs[0].images if len(jobs) == 1 else np.concatenate([job.images for job in jobs]))
            ended = monotonic()
            waited = tuple(started - job.arrived for job in jobs)
            self._pace(min(job.arrived for job in jobs), ended, ended - started, len(raw.scores))
            if self._observe is not None:
                self._observe(Pass(len(raw.scores), ended - started, waited))
        except Exception as error:  # noqa: BLE001 - raised again where the request waits
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._run(session, [job])
            return
        start = 0
        for job, queue_s in zip(jobs, waited, strict=True):
            end = start + len(job.images)
            job.future.set_result(JobResult(_part(raw, start, end), queue_s, ended - started))
            start = end

    def _pace(self, arrived: float, ended: float, seconds: float, num_images: int) -> None:
        """Update the pace: the time since the last pass ended if work was always waiting, otherwise the pass's own duration."""
        with self._changed:
            taken = min(seconds, max(0.0, ended - self._last_end)) if arrived < self._last_end else seconds
            each = taken / num_images
            self.seconds_each = each if self.seconds_each == 0 else _MEMORY * self.seconds_each + (1 - _MEMORY) * each
            self._last_end = ended


def _part(raw: Raw, start: int, end: int) -> Raw:
    if (start, end) == (0, len(raw.scores)):
        return raw
    masks = None if raw.masks is None else raw.masks[start:end]
    return Raw(raw.boxes[start:end], raw.scores[start:end], raw.labels[start:end], raw.converged[start:end], masks)
