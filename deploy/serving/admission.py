"""Decides whether there is room and time for one more request, and memory for its body."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.serving.refusals import Busy

_CAUTION = 1.5
"""Safety factor on the expected time: the engine's pace excludes decoding, which may share its core."""


class Admission:
    """Counts requests from the end of their body to their answer, and the bytes of bodies. Only for use in the event loop."""

    def __init__(self, room: int, max_bytes: int) -> None:
        self.room = room
        self.max_bytes = max_bytes
        self.pending = 0
        self.images = 0
        self.bytes = 0

    def check(self, seconds: float, seconds_each: float, num_images: int = 1) -> None:
        """Check for room and time; to be called before a body is read, and again afterwards.

        Args:
            seconds: time until the answer is due.
            seconds_each: time per image at the engine's current pace.
            num_images: number of images in the request.

        Raises:
            Busy: all places are taken, or the requests ahead would leave too little time.
        """
        wait = self.images * seconds_each
        if self.pending >= self.room:
            raise Busy(f"{self.pending} requests are being answered already; retry later", wait)
        needed = (wait + num_images * seconds_each) * _CAUTION
        if self.pending and needed > seconds:
            raise Busy(f"an answer may take {needed:.2g} s, and {seconds:.2g} s are allowed; retry later", wait)

    @contextmanager
    def place(self, seconds: float, seconds_each: float, num_images: int = 1) -> Iterator[None]:
        """Hold a place while the request is processed; arguments and errors as in `check`."""
        self.check(seconds, seconds_each, num_images)
        self.pending += 1
        self.images += num_images
        try:
            yield
        finally:
            self.pending -= 1
            self.images -= num_images

    @contextmanager
    def memory(self) -> Iterator[Callable[[int], None]]:
        """A function to call with the size of each piece of a body; it raises Busy above the limit. The bytes are released at the end."""
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self.bytes + count > self.max_bytes:
                raise Busy(f"bodies of {self.bytes:,} bytes are in memory already; retry later")
            held += count
            self.bytes += count

        try:
            yield hold
        finally:
            self.bytes -= held
