"""One admission for all three doors: /v1/detect, and the Open Inference Protocol over HTTP and gRPC."""

import asyncio
import gc
import io
import json
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import artifact_samples as samples
import numpy as np
import pytest
from serving_samples import Running, encoded
from waiting import PATIENCE, until

from deploy import machine
from deploy.bundles.bundle import Bundle
from deploy.prediction import costly
from deploy.runtimes import Raw
from deploy.runtimes.ort import OrtSession
from deploy.serving import detect
from deploy.serving.admission import Admission
from deploy.serving.logs import Log
from deploy.serving.options import ServeConfig
from deploy.serving.refusals import Busy, Gone
from deploy.serving.work import File, Work

pytest.importorskip("uvicorn")
grpc = pytest.importorskip("grpc")
httpx = pytest.importorskip("httpx")

NAME = "cells-here"
SECONDS = 600.0
"""The time of every request below."""
EACH = 24.0
"""Seconds per image: with the safety factor, 16 images take 576 s and 17 take 612 s."""
IMAGE = encoded({(0, 1): 0})


class TestClaim:
    def test_a_request_is_refused_where_those_before_leave_it_no_time(self) -> None:
        admission = Admission(room=3, max_bytes=10)
        with admission.claim("1") as one, admission.claim("2") as two, admission.claim("3") as three, admission.claim("4") as four:
            one.place(0.01, 1.0, 1)  # the first is always tried
            two.place(3.0, 1.0, 1)
            with pytest.raises(Busy, match=r"may take 4\.5 s, and 4 s are allowed"):
                three.check(4.0, 1.0)
            with pytest.raises(Busy, match=r"may take 4\.5 s, and 4 s are allowed"):
                three.place(4.0, 1.0, 1)
            three.place(9.0, 1.0, 1)
            with pytest.raises(Busy, match="3 requests are being answered") as no_room:
                four.place(9.0, 1.0, 1)
            assert no_room.value.headers == {"Retry-After": "3"}
        assert (admission.pending, admission.images) == (0, 0)

    def test_images_that_are_counted_later_replace_the_one_that_was_assumed(self) -> None:
        admission = Admission(room=4, max_bytes=10)
        with admission.claim() as one, admission.claim() as other:
            one.place(0.01, 1.0, 1)
            one.place(0.01, 1.0, 16)  # still the first, which is always tried
            assert (admission.pending, admission.images) == (1, 16)
            with pytest.raises(Busy, match="may take 26 s"):
                other.place(20.0, 1.0, 1)
            other.place(30.0, 1.0, 1)
            with pytest.raises(Busy, match="may take 27 s, and 26 s are allowed") as late:
                other.place(26.0, 1.0, 2)
            assert late.value.retry_after_s == 16.0
            assert (admission.pending, admission.images) == (2, 17)
            other.place(27.0, 1.0, 2)  # its own place is not one of those that are taken
            assert (admission.pending, admission.images) == (2, 18)
        assert (admission.pending, admission.images) == (0, 0)

    def test_a_request_that_was_given_up_takes_no_place(self) -> None:
        admission = Admission(room=2, max_bytes=10)
        with admission.claim() as claim:
            claim.place(1.0, 1.0, 1)
        with pytest.raises(Gone):
            claim.place(1.0, 1.0, 16)
        assert (admission.pending, admission.images) == (0, 0)

    @pytest.mark.parametrize(("room", "most"), [(1, 1), (2, 1), (8, 7), (16, 15), (64, 60)])
    def test_one_client_leaves_places_for_others(self, room: int, most: int) -> None:
        admission = Admission(room, max_bytes=10)
        with ExitStack() as held:

            def place(client: str) -> None:
                held.enter_context(admission.claim(client)).place(60.0, 0.0, 1)

            for _ in range(most):
                place("greedy")
            with pytest.raises(Busy, match=f"{most} requests"):
                place("greedy")
            for number in range(room - most):
                place(f"modest {number}")
                with pytest.raises(Busy, match="requests"):
                    place("greedy")
            with pytest.raises(Busy, match=f"{room} requests are being"):
                place("late")
        assert (admission.pending, admission.images, admission.clients) == (0, 0, {})

    def test_images_of_others_count_only_as_far_as_they_come_first(self) -> None:
        admission = Admission(room=16, max_bytes=10)
        with (
            admission.claim("many") as many,
            admission.claim("few") as few,
            admission.claim("few") as more,
            admission.claim("many") as late,
        ):
            many.place(60.0, 1.0, 16)
            few.place(3.0, 1.0, 1)  # behind one of the sixteen
            with pytest.raises(Busy, match="may take 6 s, and 4 s are allowed"):
                more.place(4.0, 1.0, 1)  # behind the first and two of the sixteen
            more.place(6.0, 1.0, 1)
            with pytest.raises(Busy, match="may take 28 s"):
                late.place(26.0, 1.0, 1)

    def test_one_client_s_bodies_leave_memory_for_those_of_others(self) -> None:
        admission = Admission(room=3, max_bytes=160)
        with admission.claim("greedy") as one, admission.claim("greedy") as another, admission.claim("modest") as other:
            one.hold(75)
            another.hold(75)
            with pytest.raises(Busy, match="150 bytes of this client"):
                one.hold(5)
            other.hold(10)
            one.hold(-75)
            one.hold(10)
        assert (admission.bytes, admission.clients) == (0, {})

    def test_bodies_share_the_memory_that_they_may_take(self) -> None:
        admission = Admission(room=3, max_bytes=10)
        with admission.claim() as one, admission.claim() as other:
            one.hold(6)
            with pytest.raises(Busy, match="6 bytes are in memory"):
                other.hold(5)
            other.hold(4)
        assert admission.bytes == 0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("admission"))


@pytest.fixture(scope="module")
def running(bundle: Bundle) -> Iterator[Running]:
    made = Running(bundle.root, timeout_ms=1000 * SECONDS)
    yield made
    made.stop()


@dataclass(frozen=True)
class Answered:
    """What a door says: "200", "503", "OK" or "UNAVAILABLE", the reason, and after how many seconds to retry."""

    code: str
    text: str = ""
    retry_after: str | None = None


class Door:
    """A way into the server; `ok` and `busy` are its codes."""

    endpoint: str
    ok, busy = "200", "503"

    def ask(self, running: Running, num_images: int, timeout_s: float | None = None) -> Answered:
        """Send images that the engine answers, or the server refuses."""
        raise NotImplementedError


def over_http(running: Running, path: str, **request: Any) -> Answered:
    answer = httpx.post(f"http://{running.http}{path}", timeout=SECONDS, **request)
    return Answered(str(answer.status_code), answer.text, answer.headers.get("retry-after"))


class Detect(Door):
    endpoint = "detect"

    def ask(self, running: Running, num_images: int, timeout_s: float | None = None) -> Answered:
        headers = {} if timeout_s is None else {"x-timeout-ms": str(1000 * timeout_s)}
        return over_http(running, "/v1/detect", files=[("images", ("a.png", IMAGE))] * num_images, headers=headers)


def tensor(num_images: int) -> Any:
    return np.zeros((num_images, 3, 64, 64), np.float32)


class InferBinary(Door):
    endpoint = "infer"

    def ask(self, running: Running, num_images: int, timeout_s: float | None = None) -> Answered:
        images = tensor(num_images)
        described = {"name": "images", "datatype": "FP32", "shape": images.shape, "parameters": {"binary_data_size": images.nbytes}}
        parameters = {} if timeout_s is None else {"timeout": round(timeout_s * 1e6)}
        head = json.dumps({"inputs": [described], "parameters": parameters}).encode()
        headers = {"inference-header-content-length": str(len(head))}
        return over_http(running, f"/v2/models/{NAME}/infer", content=head + images.tobytes(), headers=headers)


class InferJson(Door):
    endpoint = "infer"

    def ask(self, running: Running, num_images: int, timeout_s: float | None = None) -> Answered:
        data = [0] * tensor(num_images).size
        parameters = {} if timeout_s is None else {"timeout": round(timeout_s * 1e6)}
        body = {
            "inputs": [{"name": "images", "datatype": "FP32", "shape": [num_images, 3, 64, 64], "data": data}],
            "parameters": parameters,
        }
        return over_http(running, f"/v2/models/{NAME}/infer", json=body)


class ModelInfer(Door):
    endpoint = "grpc_ModelInfer"
    ok, busy = "OK", "UNAVAILABLE"

    def ask(self, running: Running, num_images: int, timeout_s: float | None = None) -> Answered:
        from deploy.serving.oip.messages import MESSAGES

        images = tensor(num_images)
        request = MESSAGES["ModelInferRequest"](model_name=NAME, raw_input_contents=[images.tobytes()])
        request.inputs.add(name="images", datatype="FP32", shape=images.shape)
        if timeout_s is not None:
            request.parameters["timeout"].int64_param = round(timeout_s * 1e6)
        with grpc.insecure_channel(running.grpc) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            try:
                call(request.SerializeToString())
            except grpc.RpcError as error:
                return Answered(error.code().name, error.details())
        return Answered("OK")


DOORS: tuple[Door, ...] = (Detect(), InferBinary(), InferJson(), ModelInfer())
every_door = pytest.mark.parametrize("door", DOORS, ids=lambda door: type(door).__name__)


class Held:
    """An engine that answers nobody until `free` is set, at a pace of EACH."""

    def __init__(self, running: Running, threads: ThreadPoolExecutor) -> None:
        self.free = threading.Event()
        self.admission = running.service.admission
        self._running = running
        self.threads = threads

    def start(self, door: Door, num_images: int) -> "Future[Answered]":
        """Ask at a door, and wait until the images are counted."""
        pending, images = self.counts
        answer = self.threads.submit(door.ask, self._running, num_images)
        until(lambda: self.counts == (pending + 1, images + num_images), f"{num_images} images to be admitted; {self.counts}")
        return answer

    @property
    def counts(self) -> tuple[int, int]:
        """Requests and images in progress."""
        return self.admission.pending, self.admission.images


@contextmanager
def held(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    infer = OrtSession.infer
    with ExitStack() as stack:
        one = Held(running, stack.enter_context(ThreadPoolExecutor(16)))
        stack.callback(one.free.set)  # before the threads are waited for

        def wait(session: OrtSession, images: Any) -> Raw:
            if not one.free.wait(PATIENCE):
                one.free.set()  # what was admitted by mistake is many passes
                raise AssertionError("an image reached the engine that should have been refused")
            return infer(session, images)

        assert running.service._model is not None
        monkeypatch.setattr(OrtSession, "infer", wait)
        monkeypatch.setattr(running.service._model.batcher, "seconds_each", EACH)
        yield one
        one.free.set()


def metric(running: Running, line: str) -> float:
    """The value on a line of /metrics, 0 if the line does not exist yet."""
    lines = httpx.get(f"http://{running.http}/metrics", timeout=PATIENCE).text.splitlines()
    return sum(float(one.rpartition(" ")[2]) for one in lines if one.startswith(f"{line} "))


class TestDoors:
    @every_door
    def test_as_many_images_as_there_is_time_for_are_admitted(self, running: Running, monkeypatch: pytest.MonkeyPatch, door: Door) -> None:
        busy = 'edgedistill_errors_total{kind="busy"}'
        refused = f'edgedistill_requests_total{{code="{door.busy}",endpoint="{door.endpoint}"}}'
        before = metric(running, busy), metric(running, refused)
        with held(running, monkeypatch) as engine:
            first = engine.start(Detect(), 1)
            answer = door.ask(running, 16)
            assert (answer.code, engine.counts) == (door.busy, (1, 1))
            assert "an answer may take 6.1e+02 s, and 6e+02 s are allowed" in answer.text
            assert answer.retry_after == ("24" if door.busy == "503" else None)
            second = engine.start(door, 15)
            assert metric(running, "edgedistill_pending_requests") == 2
            engine.free.set()
            assert (first.result(PATIENCE).code, second.result(PATIENCE).code) == ("200", door.ok)
        until(lambda: (engine.counts, engine.admission.bytes) == ((0, 0), 0), "everything to be given back")
        assert (metric(running, busy), metric(running, refused)) == (before[0] + 1, before[1] + 1)

    @every_door
    def test_a_request_of_sixteen_images_leaves_no_time_for_one_more(
        self, running: Running, monkeypatch: pytest.MonkeyPatch, door: Door
    ) -> None:
        with held(running, monkeypatch) as engine:
            first = engine.start(door, 16)
            for other in DOORS:
                answer = other.ask(running, 1)
                assert (answer.code, answer.retry_after) == (other.busy, "384" if other.busy == "503" else None)
            assert engine.counts == (1, 16)
            engine.free.set()
            assert first.result(PATIENCE).code == door.ok

    @every_door
    def test_the_time_that_a_request_asks_for_is_what_its_images_must_fit_into(
        self, running: Running, monkeypatch: pytest.MonkeyPatch, door: Door
    ) -> None:
        with held(running, monkeypatch) as engine:
            first = engine.start(Detect(), 1)
            answer = door.ask(running, 1, timeout_s=60.0)
            assert (answer.code, "may take 72 s, and 60 s are allowed" in answer.text) == (door.busy, True)
            engine.free.set()
            assert first.result(PATIENCE).code == "200"

    @every_door
    def test_everything_is_taken_in_one_order(self, running: Running, monkeypatch: pytest.MonkeyPatch, door: Door) -> None:
        from deploy.serving.admission import Claim
        from deploy.serving.model import Model

        steps: list[str] = []

        def note(kind: type, name: str) -> None:
            original: Callable[..., Any] = getattr(kind, name)

            def noted(*args: Any) -> Any:
                if steps[-1:] != [name]:
                    steps.append(name)
                return original(*args)

            monkeypatch.setattr(kind, name, noted)

        for kind, name in ((Model, "take"), (Claim, "check"), (Claim, "hold"), (Claim, "place"), (Claim, "release"), (Model, "give_back")):
            note(kind, name)
        assert door.ask(running, 3).code == door.ok
        until(lambda: "give_back" in steps, "everything to be given back")
        parsed = (
            ["hold", "place"] if isinstance(door, InferJson) else []
        )  # how many numbers a text holds is known once a thread has read it
        assert steps == ["take", "check", "hold", "place", *parsed, "release", "give_back"]

    @every_door
    def test_a_body_without_memory_takes_no_place(self, running: Running, monkeypatch: pytest.MonkeyPatch, door: Door) -> None:
        from deploy.serving.admission import Claim

        places: list[int] = []
        monkeypatch.setattr(Claim, "place", lambda _self, _seconds, _each, num_images: places.append(num_images))
        monkeypatch.setattr(running.service.admission, "max_bytes", 10)
        answer = door.ask(running, 1)
        assert (answer.code, "bodies of 0 bytes are in memory already" in answer.text, places) == (door.busy, True, [])


def post(running: Running, host: str) -> Answered:
    """Ask for the objects of an image, from one of this machine's own addresses."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=host), timeout=SECONDS) as client:
        answer = client.post(f"http://{running.http}/v1/detect", content=IMAGE)
    return Answered(str(answer.status_code), answer.text)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have to be told of a second loopback address")
@pytest.mark.parametrize("proxies", [(), ("127.0.0.1",)], ids=["a client", "a proxy"])
def test_who_fills_the_queue_is_refused_and_others_and_a_proxy_are_answered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, proxies: tuple[str, ...]
) -> None:
    made = Running(bundle.root, queue_size=8, timeout_ms=1000 * SECONDS, trusted_proxies=proxies)
    try:
        with held(made, monkeypatch) as engine:
            monkeypatch.setattr(made.service._model.batcher, "seconds_each", 0.001)  # type: ignore[union-attr]
            answers = [engine.start(DOORS[number % len(DOORS)], 1) for number in range(7)]
            if proxies:
                answers.append(engine.start(Detect(), 1))
            else:
                for door in DOORS:
                    answer = door.ask(made, 1)
                    assert answer.code == door.busy
                    assert "7 requests of this client" in answer.text
                answers.append(engine.threads.submit(post, made, "127.0.0.2"))
                until(lambda: engine.counts[0] == 8, "the other client to be admitted")
            engine.free.set()
            assert {one.result(PATIENCE).code for one in answers} == {"200", "OK"}
    finally:
        made.stop()


def test_no_more_large_images_are_looked_at_together_than_there_are_cores(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thread that computes holds up the event loop, and with it health checks."""
    look, lock = costly.look, threading.Lock()
    now, most = 0, 0

    def slow(content: bytes) -> costly.Sight:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return look(content)

    monkeypatch.setattr(costly, "look", slow)
    monkeypatch.setattr(detect, "_GLANCE", 0)
    count = 4 * machine.num_cores()
    with ThreadPoolExecutor(count) as threads:
        answers = [threads.submit(Detect().ask, running, 1) for _ in range(count)]
        assert {one.result(PATIENCE).code for one in answers} == {"200"}
    assert most == machine.num_cores()


def test_a_refused_body_is_freed_with_its_request(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when the garbage is collected, since it no longer counts."""
    bodies: list[weakref.ref[File]] = []
    answer = detect.answer

    def noted(work: Work, files: Sequence[File], **given: Any) -> bytes:
        bodies.extend(weakref.ref(one) for one in files)
        return answer(work, files, **given)

    monkeypatch.setattr(detect, "answer", noted)
    gc.disable()
    try:
        assert over_http(running, "/v1/detect", content=b"no image").code == "400"
        assert len(bodies) == 1
        until(lambda: bodies[0]() is None, "the body to be freed")
    finally:
        gc.enable()


def test_a_request_that_is_given_up_keeps_its_place_until_its_thread_ends(bundle: Bundle) -> None:
    """Otherwise a model that was replaced could close while the thread still uses it."""
    from deploy.serving.service import Service

    service = Service(bundle.root, ServeConfig(threads=1, max_batch_size=1), log=Log(io.StringIO()))
    service.load()
    begun, free = threading.Event(), threading.Event()

    def work_on() -> bool:
        begun.set()
        return free.wait(PATIENCE)

    async def ask() -> None:
        with service.admit() as work:
            await service.run(work, work_on)

    async def give_up() -> tuple[bool, int]:
        asking = asyncio.ensure_future(ask())
        await asyncio.to_thread(begun.wait, PATIENCE)
        asking.cancel()
        await asyncio.sleep(0.05)
        found = asking.done(), service.admission.pending
        free.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        return found

    assert asyncio.run(give_up()) == (False, 1)
    assert service.admission.pending == 0
    service.close()
