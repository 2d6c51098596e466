"""One connection over HTTP: a deadline in each of its states, bounded headers, and a limit on how many one client may have."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from random import uniform
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from deploy.serving.clients import Proxies, client_key
from deploy.serving.front import HEALTH
from deploy.serving.joined import Joined
from deploy.serving.pace import Pace
from deploy.serving.parser import Parser

HEADER_SECONDS = 10.0
"""Time for the headers of a request, and for the rest of a body that was refused before it had come."""
IDLE_SECONDS = 75.0
"""Maximum idle time of a connection between two requests."""
FIRST_SECONDS = 1.0
"""Time that a connection opened just before shutdown has to send its request."""
SPARE_SECONDS = 2.0
"""Time for the headers on a connection above a limit."""
FLUSH_SECONDS = 5.0
"""Time in which a client must have read the last answer once its connection is being closed."""
REST_SECONDS = 1.0
"""Time for which a connection is not read once a request on it was refused for lack of room, as its answer says: clients that ask again
at once would otherwise leave no time for others. Up to half as long again by chance, so that those refused together come back one by
one. On a spare connection the refusal itself waits so long, since its client would open the next one at once."""
LEAST_RATE = 256 * 1024
"""Bytes per second at which a client must read an answer that it does not read within HEADER_SECONDS."""
SWEEP_SECONDS = 0.25
"""Time between two looks at the deadlines."""
MAX_HEADER_BYTES = 64 * 1024
"""Maximum size of a request's address and headers, of its trailers, and of what separates two pieces of its body."""
MAX_PIPELINED = 1000
"""Maximum number of requests that a client sends ahead on one connection."""
_SPARE = 128
_TOO_LARGE = b"431 Request Header Fields Too Large"


class Entrance:
    """Counts connections. Those above a limit are spare: they may ask for health only, once and soon, and the oldest makes room.

    `proxies` and `pace` are for the requests on all of them.
    """

    def __init__(self, most: int, most_per_client: int | None = None, trusted: Sequence[str] = ()) -> None:
        self.most = most
        self._most_per_client = most // 2 if most_per_client is None else most_per_client
        self.proxies = Proxies(trusted)
        self._clients: Counter[str] = Counter()
        self._taken = 0
        self._spare: OrderedDict[Connection, None] = OrderedDict()
        self.pace = Pace()

    def enter(self, connection: "Connection") -> bool:
        """Count a new connection; whether it is spare."""
        host = connection.client[0] if connection.client else ""
        client = client_key(host)
        if self._taken < self.most and (host in self.proxies or self._clients[client] < self._most_per_client):
            self._clients[client] += 1
            self._taken += 1
            return False
        if len(self._spare) >= min(_SPARE, max(1, self.most // 4)):
            oldest, _ = self._spare.popitem(last=False)
            oldest.transport.abort()
        self._spare[connection] = None
        return True

    def put_first(self, connection: "Connection") -> None:
        """Have a spare connection make room before all others, because it asks for something else than health."""
        if connection in self._spare:
            self._spare.move_to_end(connection, last=False)

    def leave(self, connection: "Connection", *, spare: bool) -> None:
        """Forget a connection."""
        if spare:
            self._spare.pop(connection, None)
            return
        self._taken -= 1
        client = client_key(connection.client[0] if connection.client else "")
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]


class Connection(HttpToolsProtocol):
    """uvicorn's, which waits forever for headers, for the rest of a refused body and for clients that do not read.

    Events only note when the current state must have ended; `check`, called every SWEEP_SECONDS, ends what is late. While a request is
    being answered, its own time limit applies.
    """

    parser: Parser

    def __init__(self, entrance: Entrance, **given: Any) -> None:
        super().__init__(**given)
        self.parser = Parser(self)
        self._entrance = entrance
        self._due = inf
        self._unread_due = inf
        self._late: asyncio.TimerHandle | None = None
        self._spare = self._ending = self._in_message = self._too_large = False
        self._loose = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit for the first request's headers."""
        super().connection_made(transport)
        self._spare = self._entrance.enter(self)
        self._client = self._entrance.proxies.client(*(self.client or ("", 0)))
        self._wait(SPARE_SECONDS if self._spare else HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Count what is neither a complete head nor body: nothing else bounds it, and the parser copies it with every piece."""
        self._loose += len(data)
        super().data_received(data)
        if self._loose > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refuse_large()

    def on_message_begin(self) -> None:
        """Restart the time limit at the first byte of a request."""
        super().on_message_begin()
        self._in_message = True
        if self._spare:
            self.scope["state"]["crowded"] = True
        elif self._at_rest:
            self._wait(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        """End the time limit; from here on the request's applies."""
        if self.parser.has_offer:
            return
        if self._loose > MAX_HEADER_BYTES and self._head_bytes > MAX_HEADER_BYTES:
            self._too_large = True
            raise ValueError("the headers are too large")  # the parser reports it to `send_400_response`
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        self._loose = 0
        self._due = inf
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, which is limited where it is read."""
        self._loose = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request, which may have been answered already."""
        if self.parser.has_offer:
            return
        self._loose = 0
        self._in_message = False
        super().on_message_complete()
        if self._at_rest:
            self._wait(IDLE_SECONDS)

    def on_response_complete(self) -> None:
        """Start the time limit for what follows: the rest of this request, or the next one."""
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():  # uvicorn reads on with every answer, and would queue requests without end
            self.flow.pause_reading()
        elif self.scope["state"].get("busy") and not self.transport.is_closing():
            self.flow.pause_reading()
            self._late = self._in_a_while(self._read_again)
        if self._at_rest:
            self._wait(HEADER_SECONDS if self._in_message else IDLE_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        if self._too_large:
            self._refuse_large()
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """Start the time limit for reading the answer."""
        super().pause_writing()
        self._unread_due = self.loop.time() + HEADER_SECONDS + self.transport.get_write_buffer_size() / LEAST_RATE

    def resume_writing(self) -> None:
        """End the time limit for reading the answer."""
        super().resume_writing()
        self._unread_due = inf

    def shutdown(self) -> None:
        """Shut down: a client that has sent nothing yet may still send its request; others close when idle, or with their answer."""
        if self.cycle is None:
            self._wait(FIRST_SECONDS)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room."""
        self._entrance.leave(self, spare=self._spare)
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def check(self, now: float) -> None:
        """Close the connection if its state has lasted too long, and cut it off if closing takes too long."""
        if now >= self._unread_due:
            self._cut_off()
        elif self.transport.is_closing() and not self._ending:  # whoever closes it, the client may never read what is left
            self._ending = True
            self._wait(FLUSH_SECONDS)
        elif now >= self._due:
            if self._ending or unread(self.transport):
                self._cut_off()
            else:
                self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.transport = Joined(cycle.transport, self.loop)  # type: ignore[assignment]
        start = partial(super()._start_asgi_task, cycle, app)
        if HEALTH.fullmatch(cycle.scope["path"]):
            start()
        elif self._spare:
            self._entrance.put_first(self)
            self._late = self._in_a_while(start)
        else:
            self._entrance.pace.start(self._client, start)

    def _read_again(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _in_a_while(self, function: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(REST_SECONDS * uniform(1.0, 1.5), function)  # noqa: S311 - no secret

    def _cut_off(self) -> None:
        """Close the connection so that the system, too, forgets what the client has not read."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def _at_rest(self) -> bool:
        """Whether nothing is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    @property
    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _wait(self, seconds: float) -> None:
        self._due = self.loop.time() + seconds

    def _refuse_large(self) -> None:
        if self._at_rest:  # otherwise it would stand within another answer
            self.transport.write(b"HTTP/1.1 " + _TOO_LARGE + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


def unread(transport: asyncio.Transport) -> int:
    """Bytes that the system has taken over and the client has not; closing a connection would leave them there."""
    try:
        from fcntl import ioctl
        from termios import TIOCOUTQ
    except ImportError:  # Windows
        return 0
    try:
        return int.from_bytes(ioctl(transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, AttributeError):  # closed already
        return 0


async def watch(connections: set[Any]) -> None:
    """Check all connections again and again."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        now = loop.time()
        for one in list(connections):
            one.check(now)
