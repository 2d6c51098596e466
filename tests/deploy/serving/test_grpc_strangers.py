"""What strangers send over gRPC: garbage, and streams that send nothing."""

from collections.abc import Iterator
from threading import Event
from typing import Any

import artifact_samples as samples
import pytest
from serving_samples import Running
from waiting import PATIENCE

pytest.importorskip("uvicorn")
grpc = pytest.importorskip("grpc")
over_grpc = pytest.importorskip("deploy.serving.oip.over_grpc")

SERVICE = "/inference.GRPCInferenceService/"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(samples.bundle(tmp_path_factory.mktemp("strangers")).root, queue_size=4)
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

    def nothing() -> Iterator[Any]:
        never.wait(PATIENCE)
        yield from ()

    with grpc.insecure_channel(running.grpc) as channel:
        stream = channel.stream_stream(SERVICE + "ModelStreamInfer", None, None)(nothing(), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError, match="nothing was sent"):
            next(stream)
        never.set()


def test_streams_that_send_nothing_leave_room_for_other_calls(running: Running) -> None:
    never = Event()

    def nothing() -> Iterator[Any]:
        never.wait(PATIENCE)
        yield from ()

    count = 2 * running.service.config.queue_size + over_grpc._BESIDE + 1  # more than all places
    with grpc.insecure_channel(running.grpc) as channel:
        streams = [channel.stream_stream(SERVICE + "ModelStreamInfer", None, None)(nothing(), timeout=PATIENCE) for _ in range(count)]
        with pytest.raises(grpc.RpcError, match="streams are open"):
            next(streams[-1])
        assert channel.unary_unary(SERVICE + "ServerLive", None, None)(b"", timeout=PATIENCE)
        for stream in streams:
            stream.cancel()
        never.set()
