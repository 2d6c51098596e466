"""Decides whether there is room and time for one more request, and memory for its body."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from deploy.serving.refusals import Busy, Gone

_CAUTION = 1.5
"""Safety factor on the expected time: the engine's pace excludes decoding, which may share its core."""


_SMALL = 16
"""A request is small if it holds no more than this part of the spare bytes."""


class Admission:
    """Counts requests and images from the end of their body to their answer, and the bytes of bodies.

    Of these `max_bytes`, `spare_bytes` are for small requests only, which would otherwise find no room beside a few large ones.
    """

    def __init__(self, room: int, max_bytes: int, spare_bytes: int = 0) -> None:
        self.room = room
        self.max_bytes = max_bytes
        self.spare_bytes = spare_bytes
        self.pending = 0
        self.images = 0
        self.bytes = 0
        self.lock = Lock()

    @contextmanager
    def claim(self) -> Iterator["Claim"]:
        """What one request holds, nothing at first; released at the end."""
        claim = Claim(self)
        try:
            yield claim
        finally:
            claim.release()


class Claim:
    """A request's share of an Admission: bytes of its body, a place, its images. Any thread may call the methods."""

    def __init__(self, admission: Admission) -> None:
        self._all = admission
        self._bytes = 0
        self._images = 0
        self._released = False

    def check(self, seconds: float, seconds_each: float) -> None:
        """Check for room and time for one image, and take nothing; to be called before a body is read.

        Args:
            seconds: time until the answer is due.
            seconds_each: time per image at the engine's current pace.

        Raises:
            Busy: all places are taken, or the requests ahead would leave too little time.
        """
        with self._all.lock:
            self._check(seconds, seconds_each, 1)

    def hold(self, count: int) -> None:
        """Add the bytes of a piece of the body.

        Raises:
            Busy: the bodies together would be above the limit.
            Gone: the claim has been released, and nothing would give the bytes back.
        """
        with self._all.lock:
            if self._released:
                raise Gone("the client went away")
            small = self._bytes + count <= self._all.spare_bytes // _SMALL
            if count > 0 and self._all.bytes + count > self._all.max_bytes - (0 if small else self._all.spare_bytes):
                raise Busy(f"bodies of {self._all.bytes:,} bytes are in memory already; retry later")
            self._bytes += count
            self._all.bytes += count

    def place(self, seconds: float, seconds_each: float, num_images: int) -> None:
        """Take a place for a number of images, or, if the request has one, set its number of images.

        Args:
            seconds: time until the answer is due.
            seconds_each: time per image at the engine's current pace.
            num_images: number of images in the request, at least 1.

        Raises:
            Busy: see `check`.
            Gone: the claim has been released.
        """
        with self._all.lock:
            if self._released:  # the request was given up while a thread still counted its images
                raise Gone("the client went away")
            self._check(seconds, seconds_each, num_images)
            self._all.pending += self._own_places == 0
            self._all.images += num_images - self._images
            self._images = num_images

    def release(self) -> None:
        """Give everything back."""
        with self._all.lock:
            self._all.pending -= self._own_places
            self._all.images -= self._images
            self._all.bytes -= self._bytes
            self._bytes = self._images = 0
            self._released = True

    @property
    def _own_places(self) -> int:
        return int(self._images > 0)

    def _check(self, seconds: float, seconds_each: float, num_images: int) -> None:
        others = self._all.pending - self._own_places
        wait = (self._all.images - self._images) * seconds_each
        if others >= self._all.room:
            raise Busy(f"{others} requests are being answered already; retry later", wait)
        needed = (wait + num_images * seconds_each) * _CAUTION
        if others and needed > seconds:
            raise Busy(f"an answer may take {needed:.2g} s, and {seconds:.2g} s are allowed; retry later", wait)
