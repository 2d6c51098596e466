"""Hostile and good clients at the same time: the good ones are served as if the others were not there, only later."""

import asyncio
import gzip
import sys
import time
from collections import Counter

import artifact_samples as samples
import pytest
from hostile_samples import KINDS, hostile, png
from serving_samples import Client, Reply, Server, encoded, load, once, request

from deploy.bundles.bundle import Bundle

pytest.importorskip("uvicorn")

DEADLINE = 10.0
"""The server's own limit for a request, seconds."""
ANSWERS = {200, 400, 413, 503, 504}
OTHER_ADDRESS = "127.0.0.2" if sys.platform.startswith("linux") else "127.0.0.1"
"""Of clients that are not the attacker; other systems have to be told of a second loopback address."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("load"))


def test_a_seed_always_gives_the_same_bytes() -> None:
    first, second = ([hostile(seed)[:2] for seed in range(len(KINDS))] for _ in range(2))
    assert first == second
    assert [kind for kind, _ in first] == list(KINDS)


async def attack(port: int, seeds: range, *, good: int, least: int) -> tuple[list[tuple[str, Reply]], list[Reply], list[Reply]]:
    """Answers to hostile images, all sent at once, and to clients that ask and probes that look until they are all answered."""
    bodies = [hostile(seed) for seed in seeds]
    done = asyncio.Event()

    async def hostile_one(kind: str, body: bytes, headers: str) -> tuple[str, Reply]:
        return kind, await once(port, request(body, headers=headers))

    async def until_done(asked: bytes) -> list[Reply]:
        client, replies = Client(port), list[Reply]()
        while not done.is_set() or len(replies) < least:
            replies.append(await client.ask(asked))
            await asyncio.sleep(0.05)
        client.close()
        return replies

    async def attacked() -> list[tuple[str, Reply]]:
        try:
            return await asyncio.gather(*(hostile_one(*one) for one in bodies))
        finally:
            done.set()

    probing = asyncio.create_task(until_done(request(b"", "/v2/health/live", "GET")))
    asking = [asyncio.create_task(until_done(request(encoded({(0, 1): 0}, "JPEG")))) for _ in range(good)]
    found = await attacked()
    return found, await probing, [reply for one in asking for reply in await one]


@pytest.mark.parametrize(
    ("hostiles", "good"), [(len(KINDS), 4), pytest.param(200, 20, marks=pytest.mark.slow)], ids=["one of each kind", "200"]
)
def test_good_requests_are_answered_within_their_deadline(bundle: Bundle, hostiles: int, good: int) -> None:
    with Server(bundle.root, "max_batch_size=4", f"timeout_ms={1000 * DEADLINE}") as server:
        found, probed, answered = asyncio.run(attack(server.port, range(hostiles), good=good, least=5))
        assert server.process.poll() is None
        after = asyncio.run(once(server.port, request(encoded({}))))
    assert after.status == 200
    assert {reply.status for reply in answered} == {200}, Counter(
        (reply.status, reply.body[:100] * (reply.status > 200)) for reply in answered
    )
    assert max(reply.seconds for reply in answered) < DEADLINE
    assert {reply.status for reply in probed} == {200}
    wrong = [(kind, reply.status, reply.body[:200]) for kind, reply in found if reply.status not in ANSWERS]
    assert not wrong
    assert max(reply.seconds for _, reply in found) < 2 * DEADLINE  # the body's time, then the answer's


def test_the_time_of_a_request_is_for_all_of_its_images_together(bundle: Bundle) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="x"\r\n\r\n' + png(6272, 16, 0) + b"\r\n"
    headers = "content-type: multipart/form-data; boundary=b\r\nx-timeout-ms: 1500\r\n"
    with Server(bundle.root) as server:
        reply = asyncio.run(once(server.port, request(part * 16 + b"--b--\r\n", headers=headers)))
        assert reply.status == 504
        assert reply.seconds < 6.0  # each image takes longer than that on a busy machine, and all of them on any
        assert asyncio.run(once(server.port, request(encoded({})))).status == 200


@pytest.mark.slow
def test_health_and_other_clients_are_answered_while_640_ask_again_at_once(bundle: Bundle) -> None:
    """Health on new connections, measured against the same while nobody else asks; the others from an address of their own."""

    async def probes(port: int, seconds: float) -> float:
        until, worst = time.monotonic() + seconds, 0.0
        while time.monotonic() < until:
            started = time.monotonic()
            reply = await once(port, request(b"", "/v2/health/live", "GET"))
            assert reply.status == 200
            worst = max(worst, time.monotonic() - started)
            await asyncio.sleep(0.05)
        return worst

    async def good(port: int, seconds: float) -> list[Reply]:
        client, until = Client(port, OTHER_ADDRESS), time.monotonic() + seconds
        replies = list[Reply]()
        while time.monotonic() < until:
            replies.append(await client.ask(request(encoded({}))))
            await asyncio.sleep(0.1)
        client.close()
        return replies

    async def everyone(port: int) -> tuple[float, list[Reply], list[Reply]]:
        until = time.monotonic() + 15
        loading = asyncio.create_task(load(port, 640, lambda _: request(encoded({})), lambda _: time.monotonic() < until))
        asking = [asyncio.create_task(good(port, 15)) for _ in range(3)]
        worst = await probes(port, 15)
        return worst, await loading, [reply for one in asking for reply in await one]

    with Server(bundle.root, "max_batch_size=8", f"timeout_ms={1000 * DEADLINE}") as server:
        alone = asyncio.run(probes(server.port, 3))
        worst, replies, answered = asyncio.run(everyone(server.port))
    assert {reply.status for reply in replies} <= {200, 503, 504, 0}
    assert {reply.status for reply in answered} == {200}, Counter(reply.status for reply in answered)
    assert max(reply.seconds for reply in answered) < DEADLINE
    # clients and probes share this test's own loop, which is as busy as the server's
    assert worst < max(3.0, 40 * alone), (alone, worst)


@pytest.mark.slow
def test_packed_bodies_take_no_more_memory_than_bodies_may(bundle: Bundle) -> None:
    zeros = request(gzip.compress(bytes(31 << 20), 9), headers="content-encoding: gzip\r\n")
    with Server(bundle.root) as server:
        asyncio.run(once(server.port, request(encoded({}))))
        before = server.memory_kib()
        peaks = [before]

        def heard(_: Reply) -> None:
            peaks.append(server.memory_kib())

        asyncio.run(load(server.port, 60, lambda _: zeros, lambda count: count < 600, heard=heard))
    assert max(peaks) - before < (256 + 128) * 1024, (before, max(peaks))
