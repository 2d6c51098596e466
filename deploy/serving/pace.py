"""When requests are started: a few per turn of the event loop, so that what need not wait, such as health checks, never waits long."""

import asyncio
from collections.abc import Callable

from deploy.serving.clients import FairQueue

AT_ONCE = 8
"""Requests started per turn of the event loop."""


class Pace:
    """Starts at most AT_ONCE requests per turn of the event loop, the rest in later turns; clients take turns."""

    def __init__(self) -> None:
        self._left = AT_ONCE
        self._waiting: FairQueue[Callable[[], object]] = FairQueue()
        self._next_turn: asyncio.Handle | None = None

    def start(self, client: str, function: Callable[[], object]) -> None:
        """Call a function now, or in one of the next turns."""
        if self._next_turn is None:
            self._next_turn = asyncio.get_running_loop().call_soon(self._go_on)
        if self._left and not self._waiting:
            self._left -= 1
            function()
        else:
            self._waiting.append(client, function)

    def _go_on(self) -> None:
        self._next_turn = None
        self._left = AT_ONCE
        while self._waiting and self._left:
            self._next_turn = self._next_turn or asyncio.get_running_loop().call_soon(self._go_on)
            self._left -= 1
            self._waiting.pop()()
