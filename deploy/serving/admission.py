"""Whether there is room and time for one more request, and memory for its body."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deploy.serving.refusals import Busy

_CAUTION = 1.5
"""The engine's own pace leaves out decoding, which may share its core."""


class Admission:
    """Counts requests between their body and their answer, and the bytes of bodies. Used from the event loop alone."""

    def __init__(self, room: int, max_bytes: int) -> None:
        self.room = room
        self.max_bytes = max_bytes
        self.pending = 0
        self.images = 0
        self.bytes = 0

    def check(self, seconds: float, seconds_each: float, num_images: int = 1) -> None:
        """Before a body is read, and again after it.

        Args:
            seconds: until the answer must be there.
            seconds_each: that the engine takes for an image, at its present pace.
            num_images: in the request.

        Raises:
            Busy: all places are taken, or those before would leave too little time.
        """
        wait = self.images * seconds_each
        if self.pending >= self.room:
            raise Busy(f"{self.pending} requests are being answered already; come again later", wait)
        needed = (wait + num_images * seconds_each) * _CAUTION
        if self.pending and needed > seconds:
            raise Busy(f"an answer may take {needed:.2g} s, and {seconds:.2g} s are allowed; come again later", wait)

    @contextmanager
    def place(self, seconds: float, seconds_each: float, num_images: int = 1) -> Iterator[None]:
        """Keep a place while the request is worked on; arguments and errors as `check`."""
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
        """What to call with each piece of a body that comes; all are forgotten at the end. It raises Busy above the limit."""
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self.bytes + count > self.max_bytes:
                raise Busy(f"bodies of {self.bytes:,} bytes are in memory already; come again later")
            held += count
            self.bytes += count

        try:
            yield hold
        finally:
            self.bytes -= held
