"""Decides whether there is room and time for one more request, and memory for its body.

Whoever has most is refused first: a client that has fifteen times what is still free gets no more. One client alone can thus fill all but a
sixteenth, two of them 15/31 each, and some room is left for a client that has nothing yet.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from deploy.serving.refusals import Busy, Gone

_LEFT = 16
"""The part of places and bytes, and no less than one, that a client leaves for others."""
_CAUTION = 1.5
"""Safety factor on the expected time: the engine's pace excludes decoding, which may share its core."""


_SMALL = 16
"""A request is small if it holds no more than this part of the spare bytes."""


@dataclass
class ClientTotal:
    """What the requests of one client hold together, and how many they are."""

    claims: int = 0
    pending: int = 0
    images: int = 0
    bytes: int = 0


def is_greedy(own: int, free: int, most: int) -> bool:
    """Whether a client has so much already that what is free is for others."""
    left = max(1, most // _LEFT)
    return own > 0 and own * left >= (most - left) * free


class Admission:
    """Counts requests and images from the end of their body to their answer, and the bytes of bodies; of all, and of each client.

    Of these `max_bytes`, `spare_bytes` are for small requests only, which would otherwise find no room beside a few large ones.
    """

    def __init__(self, room: int, max_bytes: int, spare_bytes: int = 0) -> None:
        self.room = room
        self.max_bytes = max_bytes
        self.spare_bytes = spare_bytes
        self.pending = 0
        self.images = 0
        self.bytes = 0
        self.clients: dict[str, ClientTotal] = {}
        self.lock = Lock()

    @contextmanager
    def claim(self, client: str = "") -> Iterator["Claim"]:
        """What one request of a client holds, nothing at first; released at the end."""
        claim = Claim(self, client)
        try:
            yield claim
        finally:
            claim.release()


class Claim:
    """A request's share of an Admission: bytes of its body, a place, its images. Any thread may call the methods."""

    def __init__(self, admission: Admission, client: str) -> None:
        self._all = admission
        self._client = client
        self._bytes = 0
        self._images = 0
        self._released = False
        with admission.lock:
            self._own = admission.clients.setdefault(client, ClientTotal())
            self._own.claims += 1

    def check(self, seconds: float, seconds_each: float) -> None:
        """Check for room and time for one image, and take nothing; to be called before a body is read.

        Args:
            seconds: time until the answer is due.
            seconds_each: time per image at the engine's current pace.

        Raises:
            Busy: all places are taken, or this client's share of them, or the requests ahead would leave too little time.
        """
        with self._all.lock:
            self._check(seconds, seconds_each, 1)

    def hold(self, count: int) -> None:
        """Add the bytes of a piece of the body.

        Raises:
            Busy: the bodies together, or those of this client, would be above the limit.
            Gone: the claim has been released, and nothing would give the bytes back.
        """
        with self._all.lock:
            if self._released:
                raise Gone("the client went away")
            if count > 0:
                self._check_bytes(count)
            self._bytes += count
            self._own.bytes += count
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
            self._count(1 - self._own_places, num_images - self._images)
            self._images = num_images

    def release(self) -> None:
        """Give everything back."""
        with self._all.lock:
            if self._released:
                return
            self._count(-self._own_places, -self._images)
            self._all.bytes -= self._bytes
            self._own.bytes -= self._bytes
            self._bytes = self._images = 0
            self._released = True
            self._own.claims -= 1
            if not self._own.claims:
                del self._all.clients[self._client]

    @property
    def _own_places(self) -> int:
        return int(self._images > 0)

    def _count(self, places: int, images: int) -> None:
        self._all.pending += places
        self._own.pending += places
        self._all.images += images
        self._own.images += images

    def _check_bytes(self, count: int) -> None:
        taken, most = self._all.bytes, self._all.max_bytes
        small = self._bytes + count <= self._all.spare_bytes // _SMALL
        if taken + count > most - (0 if small else self._all.spare_bytes):
            raise Busy(f"bodies of {taken:,} bytes are in memory already; retry later")
        if is_greedy(self._own.bytes, most - taken, most):
            raise Busy(f"bodies of {self._own.bytes:,} bytes of this client are in memory already; retry later")

    def _check(self, seconds: float, seconds_each: float, num_images: int) -> None:
        others = self._all.pending - self._own_places
        own = self._own.pending - self._own_places
        wait = self._ahead(num_images) * seconds_each
        if others >= self._all.room:
            raise Busy(f"{others} requests are being answered already; retry later", wait)
        if is_greedy(own, self._all.room - others, self._all.room):
            raise Busy(f"{own} requests of this client are being answered already; retry later", wait)
        needed = (wait + num_images * seconds_each) * _CAUTION
        if others and needed > seconds:
            raise Busy(f"an answer may take {needed:.2g} s, and {seconds:.2g} s are allowed; retry later", wait)

    def _ahead(self, num_images: int) -> int:
        """Images that pass through the engine before the last of this request's: clients take turns, so another one's many wait, too."""
        own = self._own.images - self._images
        if len(self._all.clients) == 1:
            return own
        return own + sum(min(one.images, own + num_images) for one in self._all.clients.values() if one is not self._own)
