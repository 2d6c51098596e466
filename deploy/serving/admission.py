"""Whether there is room and time for one more request: decided when it comes, before its body is read."""

from collections.abc import Iterator
from contextlib import contextmanager

from deploy.serving.refusals import Busy

_CAUTION = 1.5
"""The engine's own pace leaves out decoding, which may share its core."""


class Admission:
    """Counts requests between arrival and answer. Used from the event loop alone."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.pending = 0

    @contextmanager
    def place(self, seconds: float, seconds_each: float) -> Iterator[None]:
        """Keep a place while the request is worked on.

        Args:
            seconds: until the answer must be there.
            seconds_each: that the engine takes for an image, at its present pace.

        Raises:
            Busy: all places are taken, or those before would leave too little time.
        """
        wait = self.pending * seconds_each
        if self.pending >= self.room:
            raise Busy(f"{self.pending} requests are being answered already; come again later", wait)
        needed = (wait + seconds_each) * _CAUTION
        if self.pending and needed > seconds:
            raise Busy(f"an answer may take {needed:.2g} s, and {seconds:.2g} s are allowed; come again later", wait)
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1
