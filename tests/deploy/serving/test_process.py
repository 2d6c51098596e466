"""`edgedistill serve` as a process: under load, when it is told to stop, when its bundle is replaced, and given rubbish."""

import asyncio
import contextlib
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import pytest
from rubbish_samples import DOCUMENTED, fuzz
from serving_samples import Client, Reply, Running, Server, encoded, load, once, request
from waiting import PATIENCE, until

from deploy.accuracy import coco
from deploy.accuracy.judge import LabeledSplit, judge
from deploy.bundles.bundle import Bundle
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Raw
from deploy.runtimes.ort import OrtSession

pytest.importorskip("uvicorn")
process = pytest.importorskip("deploy.serving.process")

IMAGE = encoded({(0, 1): 0, (2, 3): 2})
SECONDS = 0.02
"""What the slow engine takes for an image; its capacity is 50 a second."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("process"))


def call(address: str | int) -> socket.socket:
    """A connection to `host:port`, or to a port here."""
    host, _, port = str(address).rpartition(":")
    return socket.create_connection((host or "127.0.0.1", int(port)), timeout=PATIENCE)


def listening(port: int) -> bool:
    """A new connection is taken."""
    with contextlib.suppress(ConnectionRefusedError), call(port):
        return True
    return False


def detections(reply: Reply) -> dict[str, Any]:
    body = json.loads(reply.body)
    return {key: body[key] for key in ("version", "annotations", "categories")}


def test_overload_is_refused_and_the_accepted_are_answered_in_time(bundle: Bundle) -> None:
    """Ten times more than there are places: 100 clients that ask again at once when refused, until 60 were accepted."""
    accepted: list[Reply] = []

    def heard(reply: Reply) -> None:
        if reply.status == 200:
            accepted.append(reply)

    def go_on(_: int) -> bool:
        return len(accepted) < 60

    async def overload(port: int) -> tuple[list[Reply], list[Reply]]:
        health = load(port, 1, lambda _: request(b"", "/v2/health/ready", "GET"), go_on)
        replies, ready = await asyncio.gather(load(port, 100, lambda _: request(IMAGE), go_on, heard=heard), health)
        return replies, ready

    settings = ("max_batch_size=1", "queue_size=10", f"timeout_ms={1000 * PATIENCE}")
    with Server(bundle.root, *settings, seconds=SECONDS) as server:
        replies, ready = asyncio.run(overload(server.port))
    counts = Counter(reply.status for reply in replies)
    assert set(counts) == {200, 503}, counts  # accepted and late would be 504
    assert counts[503] > counts[200]  # the load was an overload
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies if reply.status == 503)
    assert {reply.status for reply in ready} == {200}


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_leaves_no_accepted_request_without_its_answer(bundle: Bundle, stop: signal.Signals) -> None:
    """After SIGTERM the clients go on for a while, as a load balancer does until it has seen `not ready`; else to the end."""
    with Server(bundle.root, "drain_seconds=4", "max_batch_size=1", seconds=SECONDS) as server:
        stopped: list[float] = []

        def go_on(count: int) -> bool:
            if count >= 30 and not stopped:
                server.send(stop)
                stopped.append(time.monotonic())
            return stop == signal.SIGINT or not stopped or time.monotonic() < stopped[0] + 1

        replies = asyncio.run(load(server.port, 8, lambda _: request(IMAGE), go_on))
        code = server.end()
    answered = sum(reply.status == 200 for reply in replies)
    assert answered >= 30
    assert answered == server.answered(200)
    # without a pause before closing, a connection at rest may be closed as its client begins to send; that was not accepted
    lost = sum(reply.status == 0 for reply in replies)
    assert lost == 0 if stop == signal.SIGTERM else lost <= 8
    assert code == (0 if stop == signal.SIGTERM else 130)
    assert server.said("draining")


def test_a_client_that_has_called_when_the_server_ends_may_still_ask(bundle: Bundle) -> None:
    with (
        Server(bundle.root, seconds=SECONDS, changes=f"process.connection.FIRST_SECONDS = {PATIENCE}") as server,
        call(server.port) as called,
    ):
        assert asyncio.run(once(server.port, request(IMAGE))).status == 200  # the one before was accepted, too
        server.send(signal.SIGINT)
        until(lambda: not listening(server.port), "the server to take no more calls")
        called.sendall(request(IMAGE))
        answer = called.makefile("rb").read()  # to the end: it is closed after the answer
        assert server.end() == 130
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer
    assert server.answered(200) == 2


def test_a_client_that_has_called_and_is_silent_does_not_hold_up_the_end(bundle: Bundle) -> None:
    """It is given one second; whoever begins to ask, here as long as whoever has asked: ten minutes."""
    changes = "process.connection.HEADER_SECONDS = 600"
    with Server(bundle.root, "timeout_ms=600000", changes=changes) as server, call(server.port) as called:
        assert asyncio.run(once(server.port, request(IMAGE))).status == 200
        server.send(signal.SIGINT)
        assert called.recv(1) == b""
        assert server.end() == 130


def test_a_bundle_swapped_under_load_loses_and_mixes_nothing(tmp_path: Path) -> None:
    old, new = samples.bundle(tmp_path / "old"), samples.bundle_for_128_px(tmp_path / "new")
    link = tmp_path / "current"
    link.symlink_to(old.root)
    with Server(link, "max_batch_size=4", "sessions=2", seconds=0.002) as server:
        after: list[Reply] = []

        def heard(reply: Reply) -> None:
            if b'"version":"2"' in reply.body:
                after.append(reply)

        def go_on(count: int) -> bool:
            if count == 100:
                (tmp_path / "next").symlink_to(new.root)
                (tmp_path / "next").replace(link)
                server.send(signal.SIGHUP)
            assert not server.said("bundle refused")
            return len(after) < 200

        replies = asyncio.run(load(server.port, 8, lambda _: request(IMAGE), go_on, heard=heard))
    assert {reply.status for reply in replies} == {200}
    answers = {json.dumps(detections(reply)) for reply in replies}
    assert {json.loads(answer)["version"] for answer in answers} == {"1", "2"}
    assert len(answers) == 2
    first, second = sorted(map(json.loads, answers), key=lambda answer: str(answer["version"]))
    assert first["annotations"] != second["annotations"]
    assert {one["category_id"] for one in second["annotations"]} <= {13, 17, 190}


def test_a_bundle_that_fails_is_rolled_back_under_load(tmp_path: Path) -> None:
    made = samples.bundle(tmp_path / "made")
    with Server(made.root, "max_batch_size=2") as server:
        (made.root / "engine.onnx").write_bytes(b"broken")
        server.send(signal.SIGHUP)
        replies = asyncio.run(
            load(server.port, 4, lambda _: request(IMAGE), lambda count: count < 200 or not server.said("bundle refused"))
        )
        server.send(signal.SIGTERM)
        assert server.end() == 0
    assert {(reply.status, detections(reply)["version"]) for reply in replies} == {(200, "1")}


def test_a_client_that_goes_away_has_its_work_skipped(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    free, passes, infer = threading.Event(), list[int](), OrtSession.infer

    def held(session: OrtSession, images: Any) -> Raw:
        passes.append(len(images))
        assert free.wait(PATIENCE)
        return infer(session, images)

    running = Running(bundle.root, timeout_ms=600_000)
    monkeypatch.setattr(OrtSession, "infer", held)
    assert running.service._model is not None
    queued = running.service._model.batcher._jobs

    def one_and(number: int) -> bool:
        return (len(passes), len(queued)) == (1, number)

    def gone() -> int:
        return sum(line["event"] == "request" and line["status"] == 499 for line in running.log())

    try:
        with contextlib.ExitStack() as clients:
            for number in range(20):
                clients.enter_context(call(running.http)).sendall(request(IMAGE))
                until(partial(one_and, number), "one job in the engine and the others behind it")
        until(lambda: gone() == 19, "the others to be given up")
        free.set()
        until(lambda: gone() == 20, "the one in the engine to be given up")
        with call(running.http) as client:
            client.sendall(request(IMAGE))
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    finally:
        free.set()
        running.stop()
    assert passes == [1, 1]


def test_a_body_that_does_not_come_is_not_waited_for(bundle: Bundle) -> None:
    async def dawdle(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(IMAGE, headers="x-timeout-ms: 300\r\n")[:-10])
        answer = await reader.readuntil(b"\r\n")
        writer.close()
        await writer.wait_closed()
        return answer

    with Server(bundle.root, "max_batch_size=1", "timeout_ms=600000") as server:
        assert asyncio.run(dawdle(server.port)).split()[1] == b"408"
        assert asyncio.run(once(server.port, request(IMAGE))).status == 200


class TestHeaders:
    @pytest.fixture
    def running(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
        """A server that waits one second for headers."""
        monkeypatch.setattr(process.connection, "HEADER_SECONDS", 1.0)
        made = Running(bundle.root)
        yield made
        made.stop()

    @pytest.mark.parametrize("sent", [b"", b"POST /v1/detect HT", b"GET /v2 HTTP/1.1\r\nhost: x\r\n"])
    def test_that_do_not_come_are_not_waited_for(self, running: Running, sent: bytes) -> None:
        with call(running.http) as connection:
            start = time.monotonic()
            connection.sendall(sent)
            assert connection.recv(1) == b""
            assert time.monotonic() - start > 0.5  # no sooner

    def test_between_two_requests_a_connection_may_rest_longer(self, running: Running) -> None:
        connection = HTTPConnection(running.http, timeout=PATIENCE)
        connection.connect()
        connection.auto_open = 0
        for _ in range(2):
            connection.request("GET", "/v2/health/live")
            with connection.getresponse() as answer:
                assert (answer.status, answer.read()) == (200, b'{"live":true}')
            time.sleep(1.5)
        connection.close()


def test_many_signals_to_swap_load_no_more_than_once_more(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve while the first is being loaded; then one that comes later."""
    running = Running(bundle.root)
    begun: list[int] = []
    free = threading.Event()

    def load() -> None:
        begun.append(1)
        free.wait(PATIENCE)

    def swap(count: int) -> None:
        for _ in range(count):
            running.server._loop.call_soon_threadsafe(running.server._swap)

    try:
        monkeypatch.setattr(running.service, "load", load)
        swap(1)
        until(lambda: begun, "the first load")
        swap(12)
        heard = threading.Event()
        running.server._loop.call_soon_threadsafe(heard.set)
        assert heard.wait(PATIENCE)
        free.set()
        swapping = running.server._swapping
        assert swapping is not None
        until(swapping.done, "the loads to end")
        assert len(begun) == 2
        swap(1)
        until(lambda: len(begun) == 3, "a later load")
    finally:
        free.set()
        running.stop()


def test_map_through_the_server_equals_that_of_validate(bundle: Bundle, tmp_path: Path) -> None:
    dataset = samples.dataset(tmp_path / "data", num_images=12)
    truth = json.loads(dataset.annotations("val").read_text())
    files = tuple(dataset.images("val") / image["file_name"] for image in truth["images"])
    with bundle.open() as session:
        expected = judge(SessionPredictor(session, bundle.manifest.contract), LabeledSplit("val", truth, files), "val").accuracy

    async def ask(port: int) -> list[dict[str, Any]]:
        client = Client(port)
        found = []
        for image, file in zip(truth["images"], files, strict=True):
            answer = json.loads((await client.ask(request(file.read_bytes()))).body)
            found += [{**one, "image_id": image["id"]} for one in answer["annotations"]]
        client.close()
        return found

    with Server(bundle.root) as server:
        accuracy, _ = coco.evaluate(truth, asyncio.run(ask(server.port)), "val", bundle.manifest.contract.classes)
    assert accuracy == expected
    assert accuracy.map == 1.0


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_rubbish_is_refused_and_leaves_nothing_behind(bundle: Bundle, count: int) -> None:
    random = np.random.default_rng(0)
    warm = 20_000 if count > 20_000 else 1_000
    with Server(bundle.root, "max_body_mib=0.055", "queue_size=32") as server:
        replies = asyncio.run(load(server.port, 4, fuzz(random), lambda number: number < warm))
        before = server.memory_kib()
        replies += asyncio.run(load(server.port, 4, fuzz(random), lambda number: number < count - warm))
        after = server.memory_kib()
        assert server.process.poll() is None
        assert asyncio.run(once(server.port, request(IMAGE))).status == 200
    counts = Counter(reply.status for reply in replies)
    assert set(counts) <= DOCUMENTED, counts
    assert counts[200] > count / 20
    if count > 20_000:
        assert after <= 1.05 * before, (before, after)
