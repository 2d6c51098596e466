"""One request on its way through the server: what it holds, its time, and its jobs in the batcher."""

from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from time import monotonic

from deploy import machine
from deploy.precision import Batch
from deploy.serving.admission import Claim
from deploy.serving.batcher import JobResult
from deploy.serving.clients import Rotation
from deploy.serving.model import Model
from deploy.serving.refusals import Expired, Gone

_decoding = Rotation(machine.num_cores())
"""Limits how many images are decoded at the same time: a large one needs hundreds of MB while it is decoded."""


@dataclass(frozen=True)
class File:
    """An image as received; `name` is the client's and is returned unchanged."""

    content: bytes
    name: str | None = None


class Work:
    """An admitted request, see `Service.admit`. Its jobs are cancelled when its client goes away or its time expires.

    `deadline` is on time.monotonic's clock.
    """

    def __init__(self, model: Model, claim: Claim, seconds: float, client: str = "") -> None:
        self.model = model
        self.claim = claim
        self.client = client
        self._arrived = monotonic()
        self.deadline = self._arrived + seconds
        self._futures: list[Future[JobResult]] = []
        self._cancelled = False
        self._lock = Lock()

    def limit(self, milliseconds: float | None) -> None:
        """Shorten the request's time, counted from its arrival; None changes nothing."""
        if milliseconds is not None:
            self.deadline = min(self.deadline, self._arrived + milliseconds / 1000)

    @property
    def seconds_left(self) -> float:
        """Time until the answer is due, at least 0."""
        return max(0.0, self.deadline - monotonic())

    def gone(self) -> bool:
        """Whether the request was cancelled."""
        return self._cancelled

    def check(self) -> None:
        """Check for room and time before the body is read.

        Raises:
            Busy: see Claim.check.
        """
        self.claim.check(self.seconds_left, self.model.batcher.seconds_each)

    def place(self, num_images: int) -> None:
        """Take a place, or set the number of images if the request has one.

        Raises:
            Busy, Gone: see Claim.place.
        """
        self.claim.place(self.seconds_left, self.model.batcher.seconds_each, num_images)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn to decode or parse, which only a few requests do at the same time; clients get them in rotation.

        Raises:
            Expired: the request's time expired before its turn.
            Gone: the request was cancelled.
        """
        with _decoding.place(self.client, self._until_turn):
            if self._cancelled:
                raise Gone("the client went away")
            yield

    def submit(self, images: Batch) -> "Future[JobResult]":
        """Queue images [n, 3, H, W], n at most the maximum batch size."""
        with self._lock:
            if self._cancelled:
                raise Gone("the client went away")
            future = self.model.batcher.submit(images, self.deadline, self.client)
            self._futures.append(future)
            return future

    def result(self, future: "Future[JobResult]") -> JobResult:
        """Wait for an answer.

        Raises:
            Expired: the request's time expired.
            Gone: the request was cancelled.
            ArtifactError: the engine failed.
        """
        try:
            return future.result(self.seconds_left)
        except TimeoutError as error:
            self.cancel()
            raise Expired("the answer was not ready within the request's time") from error
        except CancelledError as error:
            raise Gone("the client went away") from error

    def cancel(self) -> None:
        """Skip every job that is still queued."""
        with self._lock:
            self._cancelled = True
            for future in self._futures:
                future.cancel()

    def _until_turn(self) -> float:
        if not (left := self.seconds_left):
            raise Expired("the request's time expired before its turn")
        return left
