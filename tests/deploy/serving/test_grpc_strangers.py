"""What strangers send over gRPC: garbage, and streams that send nothing."""

import contextlib
import socket
from collections.abc import Iterator
from threading import Event
from types import SimpleNamespace
from typing import Any

import artifact_samples as samples
import pytest
from serving_samples import Running
from waiting import PATIENCE

from deploy.bundles.bundle import Bundle
from deploy.serving import clients
from deploy.serving.refusals import Busy

pytest.importorskip("uvicorn")
grpc = pytest.importorskip("grpc")
over_grpc = pytest.importorskip("deploy.serving.oip.over_grpc")

SERVICE = "/inference.GRPCInferenceService/"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def running(bundle: Bundle) -> Iterator[Running]:
    made = Running(bundle.root, queue_size=4)
    yield made
    made.stop()


@pytest.mark.parametrize("name", ["ServerLive", "ModelReady", "ModelMetadata", "ModelStatistics", "RepositoryIndex", "ModelInfer"])
def test_garbage_is_refused_as_such_and_logged(running: Running, name: str) -> None:
    with grpc.insecure_channel(running.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(SERVICE + name, None, None)(b"\xff\xff\xff", timeout=PATIENCE)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert any(line.get("path") == name and line["status"] == "INVALID_ARGUMENT" for line in running.log())


def test_a_stream_that_sends_nothing_ends(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_grpc, "STREAM_SECONDS", 0.5)
    never = Event()
    with grpc.insecure_channel(running.grpc) as channel:
        stream = channel.stream_stream(SERVICE + "ModelStreamInfer", None, None)(nothing(never), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError, match="nothing was sent") as refused:
            next(stream)
        never.set()
    identity = dict(refused.value.trailing_metadata())["x-request-id"]
    (line,) = (line for line in running.log() if line.get("request_id") == identity)
    assert (line["path"], line["status"]) == ("ModelStreamInfer", "DEADLINE_EXCEEDED")
    assert 'edgedistill_requests_total{code="DEADLINE_EXCEEDED",endpoint="grpc_ModelStreamInfer"} 1.0' in metrics(running)


def metrics(running: Running) -> str:
    return running.service.metrics.text(pending=0, ready=True).decode()


def nothing(never: Event) -> Iterator[Any]:
    never.wait(PATIENCE)
    yield from ()


def test_streams_that_send_nothing_leave_room_for_other_calls(running: Running) -> None:
    never = Event()
    count = 5 * running.service.config.queue_size + over_grpc._BESIDE + 1  # more than all places
    with grpc.insecure_channel(running.grpc) as channel:
        open_stream = channel.stream_stream(SERVICE + "ModelStreamInfer", None, None)
        streams = [open_stream(nothing(never), timeout=PATIENCE) for _ in range(count)]
        with pytest.raises(grpc.RpcError, match="streams are open"):
            next(streams[-1])
        assert channel.unary_unary(SERVICE + "ServerLive", None, None)(b"", timeout=PATIENCE)
        assert channel.unary_unary(SERVICE + "ServerMetadata", None, None)(b"", timeout=PATIENCE)
        for stream in streams:
            stream.cancel()
        never.set()


def test_streams_through_a_trusted_proxy_are_those_of_many_clients(bundle: Bundle) -> None:
    """All eight places; of one client's streams, half."""
    made, never = Running(bundle.root, queue_size=4, trusted_proxies=("127.0.0.1",)), Event()
    try:
        with grpc.insecure_channel(made.grpc) as channel:
            open_stream = channel.stream_stream(SERVICE + "ModelStreamInfer", None, None)
            held = [open_stream(nothing(never), timeout=PATIENCE) for _ in range(7)]
            assert b"not a ModelInferRequest" in next(open_stream(iter([b"\xff"]), timeout=PATIENCE))
            for stream in held:
                stream.cancel()
            never.set()
    finally:
        made.stop()


@pytest.mark.parametrize("name", ["ModelInfer", "ModelMetadata", "ServerLive"])
def test_calls_that_send_no_message_leave_room_for_other_calls_and_end(
    running: Running, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A call with one message looks the same on the wire whether or not its client calls it a stream."""
    monkeypatch.setattr(running.service, "config", running.service.config.model_copy(update={"timeout_ms": 500}))
    never = Event()
    with grpc.insecure_channel(running.grpc) as channel:
        held = [channel.stream_unary(SERVICE + name, None, None).future(nothing(never)) for _ in range(600)]
        assert channel.unary_unary(SERVICE + "ServerReady", None, None)(b"", timeout=PATIENCE)
        codes = {one.exception(timeout=PATIENCE).code() for one in held if one.exception(timeout=PATIENCE)}
        never.set()
    assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes


def test_a_connection_over_grpc_that_says_nothing_ends(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_grpc, "_HANDSHAKE_SECONDS", 0.5)
    made = Running(bundle.root)
    try:
        host, _, port = made.grpc.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as one, contextlib.suppress(ConnectionResetError):
            while one.recv(1000):  # the server's settings, then the end
                pass
    finally:
        made.stop()


def test_one_client_holds_half_of_the_places() -> None:
    places = clients.Share(4, "calls")
    with contextlib.ExitStack() as held:
        for client in "aabb":
            held.enter_context(places.place(client))
        for client in "abc":
            with pytest.raises(Busy, match="too many calls"):
                held.enter_context(places.place(client))
    with contextlib.ExitStack() as held:
        held.enter_context(places.place("a"))
        held.enter_context(places.place("a"))
        with pytest.raises(Busy):
            held.enter_context(places.place("a"))
        held.enter_context(places.place("b"))


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:192.0.2.1:50000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:50000", "2001:db8::/64"),
        ("ipv6:%5B::1%5D:1", "::/64"),
        ("unix:", ""),
    ],
)
def test_clients_over_grpc_are_known_by_their_address(running: Running, peer: str, client: str) -> None:
    assert over_grpc.client(running.service, SimpleNamespace(peer=lambda: peer)) == client
