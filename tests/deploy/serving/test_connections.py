"""Connections that strangers hold, overfill and leave unread: each state ends in time, and health is answered beside them."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import artifact_samples as samples
import pytest
from serving_samples import Running, encoded, request
from waiting import PATIENCE, join, until

from deploy.bundles.bundle import Bundle
from deploy.serving.clients import Proxies
from deploy.serving.options import ServeConfig

pytest.importorskip("uvicorn")
connection = pytest.importorskip("deploy.serving.connection")
process = pytest.importorskip("deploy.serving.process")

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
IMAGE = encoded({(0, 1): 0})
HELD = {
    "silent": (b"", b""),
    "line breaks alone": (b"\r\n", b""),
    "part of a request": (b"GET / HT", b""),
    "answer, then a line break": (LIVE, b"\r\n"),
    "answer, then part of a request": (LIVE, b"G"),
    "404, then one byte of the body": (b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n", b"x"),
    "413, then one byte of the body": (b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", b"x"),
    "health with a body that does not end": (b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n", b"x"),
    "chunks that do not end": (b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("connections"))


@pytest.fixture
def running(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server whose time limits for connections are short, and that takes few of them."""
    for name in ("HEADER_SECONDS", "IDLE_SECONDS", "FLUSH_SECONDS"):
        monkeypatch.setattr(connection, name, 1.0)
    monkeypatch.setattr(connection, "LEAST_RATE", 1 << 30)
    monkeypatch.setattr(process, "_MAX_CONNECTIONS", 40)
    made = Running(bundle.root, max_connections_per_client=20)
    yield made
    made.stop()


def call(running: Running) -> socket.socket:
    host, _, port = running.http.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def answered(running: Running, asked: bytes = LIVE) -> bytes:
    """The first line of the answer on a connection of its own."""
    with call(running) as one:
        one.sendall(asked)
        return one.makefile("rb").readline().rstrip()


def closed(one: socket.socket) -> bool:
    """Whether the other side ends the connection; times out otherwise."""
    with contextlib.suppress(ConnectionResetError):
        while one.recv(1 << 20):
            pass
    return True


@pytest.mark.parametrize("kind", HELD)
def test_a_connection_in_any_state_ends(running: Running, kind: str) -> None:
    first, then = HELD[kind]
    with call(running) as one:
        one.sendall(first)
        if then:
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 ")
            one.sendall(then)
        assert closed(one)


def test_a_connection_whose_client_reads_nothing_ends(running: Running) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, _, port = running.http.rpartition(":")
        one.connect((host, int(port)))
        one.settimeout(PATIENCE)
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            one.sendall(asked * 200)  # blocks once the server reads no more, until it cuts the connection off


def test_what_a_client_never_reads_does_not_stay_in_the_system(running: Running) -> None:
    """Answers that fit into the system's buffers: for the server the connection is at rest, and closing it would change nothing."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        host, _, port = running.http.rpartition(":")
        one.connect((host, int(port)))
        one.sendall(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500)
        until(lambda: one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "the connection to be cut off")


@pytest.mark.parametrize(
    "endless",
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nx: ", b"a"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"x: y\r\n"),
        (b"GET /", b"a"),
        (b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: ", b"a"),
        (b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
        (b"", b"\r\n"),
    ],
    ids=["header", "headers", "address", "trailer", "extension of a chunk", "line breaks"],
)
def test_headers_are_bounded(bundle: Bundle, endless: tuple[bytes, bytes]) -> None:
    made = Running(bundle.root)
    try:
        sent = 0
        with call(made) as one, contextlib.suppress(ConnectionResetError, BrokenPipeError):
            one.sendall(endless[0])
            piece = endless[1] * (8192 // len(endless[1]))
            while sent < 64 << 20:
                one.sendall(piece)
                sent += len(piece)
        assert sent < 16 << 20  # the system's buffers hold some of it
    finally:
        made.stop()


def test_headers_that_come_at_once_are_bounded(running: Running) -> None:
    long = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nx: %s\r\n\r\n"
    assert answered(running, long % (b"a" * 60_000)) == b"HTTP/1.1 200 OK"
    assert answered(running, long % (b"a" * 90_000)).startswith(b"HTTP/1.1 431 ")


OFFERS = {
    "Java's client": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n",
    "a web socket": "Connection: Upgrade\r\nUpgrade: websocket\r\n",
}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("pieces", [1, 50])
def test_an_offer_of_another_protocol_is_ignored(running: Running, offer: str, pieces: int) -> None:
    """The body is the request's own, and not another request; the next one on the connection may offer it, too."""
    asked = 2 * request(IMAGE, headers=OFFERS[offer]) + LIVE
    step = -(-len(asked) // pieces)
    with call(running) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = one.makefile("rb")
        for place in range(0, len(asked), step):
            one.sendall(asked[place : place + step])
            time.sleep(0.001 if pieces > 1 else 0)
        found = []
        for _ in range(3):
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(line.rstrip().split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
            found.append(json.loads(answers.read(int(headers[b"content-length"]))))
    assert found[0]["annotations"] == found[1]["annotations"] != []
    assert found[2] == {"live": True}
    assert [line for line in running.log() if line["event"] == "library"] == []


def test_a_tunnel_is_refused(running: Running) -> None:
    assert answered(running, b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n") == b"HTTP/1.1 400 Bad Request"
    assert answered(running, b"CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b"HTTP/1.1 405 Method Not Allowed"


def test_health_is_answered_beside_a_client_that_holds_all_it_can(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 600.0)
    monkeypatch.setattr(connection, "REST_SECONDS", 0.01)
    with contextlib.ExitStack() as held:
        for _ in range(60):
            held.enter_context(call(running))
        for _ in range(30):
            assert answered(running) == b"HTTP/1.1 200 OK"
            assert answered(running, request(IMAGE)).startswith(b"HTTP/1.1 503 ")
    monkeypatch.setattr(connection, "HEADER_SECONDS", 1.0)
    deadline = time.monotonic() + PATIENCE
    while answered(running, request(IMAGE)) != b"HTTP/1.1 200 OK":
        assert time.monotonic() < deadline


def test_who_was_refused_for_lack_of_room_is_not_read_again_at_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REST_SECONDS", 1.0)
    monkeypatch.setattr(connection, "HEADER_SECONDS", 600.0)
    monkeypatch.setattr(connection, "IDLE_SECONDS", 600.0)
    client = HTTPConnection(running.http, timeout=PATIENCE)

    def ask(count: int, content: bytes) -> tuple[set[int], float]:
        started, statuses = time.monotonic(), set[int]()
        for _ in range(count):
            client.request("POST", "/v1/detect", content)
            answer = client.getresponse()
            answer.read()
            statuses.add(answer.status)
        return statuses, time.monotonic() - started

    client.connect()
    client.auto_open = 0  # the same connection throughout
    model, running.service._model = running.service._model, None  # as while it is loaded
    refused, seconds = ask(2, IMAGE)
    assert (refused, seconds > connection.REST_SECONDS) == ({503}, True)
    running.service._model = model
    assert ask(1, IMAGE)[0] == {200}
    assert ask(1, b"no image")[0] == {400}
    assert ask(1, IMAGE)[1] < connection.REST_SECONDS  # others go on
    client.close()


def test_a_refusal_on_a_spare_connection_is_late_and_health_is_not(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has too many connections would open the next one as soon as this one is refused."""
    monkeypatch.setattr(connection, "HEADER_SECONDS", 600.0)
    monkeypatch.setattr(connection, "REST_SECONDS", 1.0)
    with contextlib.ExitStack() as held:
        for _ in range(20):
            held.enter_context(call(running))
        asked, started = held.enter_context(call(running)), time.monotonic()
        asked.sendall(request(IMAGE))
        assert answered(running) == b"HTTP/1.1 200 OK"
        assert time.monotonic() - started < 1.0
        assert asked.makefile("rb").readline().startswith(b"HTTP/1.1 503 ")
        assert time.monotonic() - started >= 1.0
        assert closed(asked)


def test_a_server_that_can_no_longer_end_connections_ends(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Running(bundle.root)
    monkeypatch.setattr(connection.Connection, "check", lambda *_: 1 / 0)
    with call(made), contextlib.suppress(OSError):
        join(made._thread)
    made.listener.close()
    assert any(line["event"] == "connections are not watched" for line in made.log())


def test_files_are_left_for_everything_that_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")

    def most(soft: int, *, grpc: bool) -> tuple[int, int]:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
        return tuple(process.most_connections(grpc=grpc))

    assert most(resource.RLIM_INFINITY, grpc=True) == most(1 << 20, grpc=True) == (1024, 256)
    assert most(1024, grpc=False) == (716, 0)
    assert most(1024, grpc=True) == (537, 224)
    assert most(64, grpc=True) == (16, 4)


class Peer:
    """A connection from an address."""

    def __init__(self, host: str) -> None:
        self.client = (host, 1)
        self.transport = self
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def entered(entrance: Any, host: str, count: int) -> list[bool]:
    return [entrance.enter(Peer(host)) for _ in range(count)]


def test_one_client_takes_no_more_than_its_share() -> None:
    entrance = connection.Entrance(8)
    assert entered(entrance, "192.0.2.1", 5) == [False] * 4 + [True]
    assert entered(entrance, "192.0.2.2", 5) == [False] * 4 + [True]
    assert entered(entrance, "192.0.2.3", 1) == [True]  # all are taken


def test_addresses_of_one_subscriber_are_one_client() -> None:
    entrance = connection.Entrance(100, 2)
    spare = [entrance.enter(Peer(host)) for host in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:1::1")]
    assert spare == [False, False, True, False]


@pytest.mark.parametrize("host", ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::5"])
def test_a_trusted_proxy_is_not_counted_as_one_client(host: str) -> None:
    entrance = connection.Entrance(8, None, ["10.0.0.0/8", "2001:db8::5"])
    assert entered(entrance, host, 9) == [False] * 8 + [True]


def test_each_connection_of_a_trusted_proxy_counts_as_a_client() -> None:
    proxies = Proxies(["10.0.0.0/8"])
    assert {proxies.client("10.1.2.3", port) for port in (1, 2, 1)} == {"10.1.2.3 1", "10.1.2.3 2"}
    assert {proxies.client("192.0.2.1", port) for port in (1, 2)} == {"192.0.2.1"}


def test_the_oldest_spare_connection_makes_room_and_places_come_back() -> None:
    entrance = connection.Entrance(4, 1)
    first, *spare = (Peer("192.0.2.1") for _ in range(4))
    assert [entrance.enter(one) for one in (first, *spare)] == [False, True, True, True]
    assert [one.aborted for one in (first, *spare)] == [False, True, True, False]
    for one in spare:
        entrance.leave(one, spare=True)
    entrance.leave(first, spare=False)
    assert entered(entrance, "192.0.2.1", 1) == [False]


def test_who_asks_for_something_else_than_health_makes_room_first() -> None:
    entrance = connection.Entrance(12, 0)
    probes, asking = [Peer("192.0.2.1"), Peer("192.0.2.1")], Peer("192.0.2.1")
    for one in (*probes, asking):
        entrance.enter(one)
    entrance.put_first(asking)
    entrance.enter(Peer("192.0.2.1"))
    assert [one.aborted for one in (*probes, asking)] == [False, False, True]


def test_trusted_proxies_are_addresses() -> None:
    assert ServeConfig(trusted_proxies=("10.0.0.1", "10.0.0.0/8", "::1")).trusted_proxies[1] == "10.0.0.0/8"
    with pytest.raises(ValueError, match="not an IP address"):
        ServeConfig(trusted_proxies=("proxy",))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
def test_all_addresses_of_ipv6_are_those_of_ipv4_too() -> None:
    with process.listen("::", 0) as listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=PATIENCE):
        pass


def test_many_new_connections_are_taken_in_few_turns_of_a_busy_loop() -> None:
    """Counted in turns, of which an overloaded server makes few per second; uvloop takes one connection per listener and turn."""
    uvloop = pytest.importorskip("uvloop")
    taken: list[int] = []

    async def take() -> None:
        loop = asyncio.get_running_loop()
        turn = 0

        class TakenPlaces(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                taken.append(turn)

        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(process.listen("127.0.0.1", 0))
            servers = [await loop.create_server(TakenPlaces, sock=one) for one in process.several(listener)]
            for _ in range(64):
                stack.enter_context(socket.create_connection(listener.getsockname(), timeout=PATIENCE))
            while len(taken) < 64 and turn < 1000:
                turn += 1
                await asyncio.sleep(0)
            for server in servers:
                server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(take())
    assert len(taken) == 64
    assert len(set(taken)) <= 8


def test_a_server_that_ends_at_once_closes_what_is_open(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 10 * PATIENCE)
    made = Running(bundle.root, timeout_ms=10_000 * PATIENCE)
    host, _, port = made.http.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        state = made.server.server_state
        until(lambda: any(getattr(one, "cycle", None) is not None for one in list(state.connections)), "the request")
        transports = [one.transport for one in state.connections]
        made.server.force_exit = True
        made.stop()
        assert transports
        assert all(one.is_closing() for one in transports)
        assert not state.connections
