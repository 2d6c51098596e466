"""Answers whose head and body leave together: one packet instead of two, and one event for the client."""

import asyncio
from typing import Any

_CONTINUE = b"HTTP/1.1 100 "


class Joined:
    """A connection's transport for one answer, whose head waits for the first piece of the body.

    The head waits no longer than until the event loop's next turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        """Send, or keep what is the head of an answer."""
        if self._begun or data.startswith(_CONTINUE):
            self._send(data)
            return
        self._begun, self._head = True, data
        self._loop.call_soon(self._send)

    def close(self) -> None:
        """Send what is left, then close."""
        self._send()
        self._transport.close()

    def _send(self, more: bytes = b"") -> None:
        data, self._head = self._head + more, b""
        if data:
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
