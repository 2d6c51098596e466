"""A server killed at random moments of a swap: every answer was of one bundle, no bundle is changed, and the next server is well."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import artifact_samples as samples
import numpy as np
import pytest
from serving_samples import Reply, Server, encoded, load, once, request

from deploy.bundles.bundle import Bundle, sha256

pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_KILLS, SEED = 25, 0
LONGEST = 0.3
"""Seconds after the signal to swap until which kills are spread; a swap of these small bundles takes a third of it."""
IMAGE = encoded({(0, 1): 0, (2, 3): 2})


class KilledSwap(NamedTuple):
    """What `kill` saw: answers until the kill, whether the swap had been reported as done by then, and an answer of the next server."""

    replies: list[Reply]
    swapped: bool
    next_answer: bytes


def answer(reply: Reply) -> bytes:
    body = json.loads(reply.body)
    return json.dumps([body["annotations"], body["categories"]]).encode()


def answered(bundle: Path) -> bytes:
    with Server(bundle) as server:
        reply = asyncio.run(once(server.port, request(IMAGE)))
    assert reply.status == 200
    return answer(reply)


def published(link: Path, bundle: Path) -> None:
    new = link.with_name("next")
    new.symlink_to(bundle)
    new.replace(link)


def killed(link: Path, old: Path, new: Path, seconds: float) -> KilledSwap:
    """Start on `old`, publish `new`, ask for the swap, and kill the server so many seconds later, all under load."""
    published(link, old)
    with Server(link, "max_batch_size=4", "sessions=2") as server:
        kill_at = float("inf")

        def go_on(count: int) -> bool:
            nonlocal kill_at
            if count >= 20 and kill_at == float("inf"):
                published(link, new)
                server.send(signal.SIGHUP)
                kill_at = time.monotonic() + seconds
            if time.monotonic() >= kill_at:
                os.kill(server.process.pid, signal.SIGKILL)
                return False
            return True

        replies = asyncio.run(load(server.port, 4, lambda _: request(IMAGE), go_on))
        assert server.end() == -signal.SIGKILL
        swapped = len(server.said("serving")) == 2
    return KilledSwap(replies, swapped, answered(link))


def digests(*bundles: Bundle) -> dict[str, str]:
    return {f"{path.parent}/{path.name}": sha256(path) for one in bundles for path in sorted(one.root.rglob("*")) if path.is_file()}


def test_a_server_killed_during_a_swap_loses_and_changes_nothing(tmp_path: Path) -> None:
    old, new = samples.bundle(tmp_path / "old"), samples.bundle_for_128_px(tmp_path / "new")
    before, first, second = digests(old, new), answered(old.root), answered(new.root)
    assert first != second
    moments = np.random.default_rng(SEED).uniform(0, LONGEST, NUM_KILLS)
    stories = [killed(tmp_path / "current", old.root, new.root, float(moment)) for moment in moments]
    for replies, _, next_answer in stories:
        assert {reply.status for reply in replies} <= {200, 0}
        assert {answer(reply) for reply in replies if reply.status} <= {first, second}
        assert next_answer == second
    assert {story.swapped for story in stories} == {True, False}
    assert digests(old, new) == before
