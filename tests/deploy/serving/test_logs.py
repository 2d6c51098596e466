"""The log: a thread writes it, so that whoever reads it, or does not, holds up no request."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import artifact_samples as samples
import pytest
from serving_samples import SLOW, Client, encoded, request
from waiting import PATIENCE, until

from deploy.serving import logs
from deploy.serving.logs import Log


class Pipe:
    """A pipe in the place of stderr."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read, self.write = os.pipe()
        monkeypatch.setattr(logs, "_stderr", lambda: self.write)

    def lines(self) -> list[dict[str, Any]]:
        """Everything that was written, after closing it."""
        os.close(self.write)
        with os.fdopen(self.read, encoding="utf-8") as file:
            return [json.loads(line) for line in file]


def test_lines_are_written_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, log = Pipe(monkeypatch), Log()
    for number in range(100):
        log.info("event", number=number)
    log.flush(PATIENCE)
    assert [line["number"] for line in pipe.lines()] == list(range(100))


def test_a_pipe_that_nobody_empties_holds_nobody_up_and_what_is_lost_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_WAITING", 100)
    pipe, log = Pipe(monkeypatch), Log()
    for number in range(2000):
        log.info("event", number=number, text="x" * 1000)
    log.flush(0.1)

    def told(text: bytes) -> tuple[int, int]:
        """Lines that were written, and lines that were dropped."""
        lines = [json.loads(line) for line in text.splitlines() if line.endswith(b"}")]
        dropped = [line["count"] for line in lines if line["event"] == "log lines dropped"]
        return len(lines) - len(dropped), sum(dropped)

    taken = b""
    while not taken.endswith(b"\n") or sum(told(taken)) < 2000:
        taken += os.read(pipe.read, 1 << 16)
    written, dropped = told(taken)
    assert written + dropped == 2000
    assert dropped > 1000
    assert pipe.lines() == []


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or sys.platform == "win32", reason="pipes and signals of POSIX")
def test_requests_are_answered_while_nobody_reads_the_log(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    bundle = samples.bundle(tmp_path / "made")
    asked = request(encoded({(0, 1): 0}), headers=f"x-request-id: {'a' * 100}\r\n")

    async def ask(port: int) -> set[int]:
        client = Client(port)
        try:
            return {(await asyncio.wait_for(client.ask(asked), PATIENCE)).status for _ in range(1000)}
        finally:
            client.close()

    program = [sys.executable, "-c", SLOW.format(seconds=0, changes="")]
    command = [*program, "serve", str(bundle.root), "--port", "0", "--set=threads=1", "--set=drain_seconds=0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said: list[dict[str, Any]] = []
        while not said or said[-1]["event"] != "serving":
            said.append(json.loads(process.stderr.readline()))
        port = int(next(line["address"] for line in said if line["event"] == "listening").rpartition(":")[2])
        assert asyncio.run(ask(port)) == {200}  # 200 kB of lines; a pipe takes 64
        process.send_signal(signal.SIGTERM)
        until(lambda: process.poll() is not None, "the server to end though nobody has read its log")
        assert process.returncode == 0


def test_a_request_without_an_id_of_its_own_gets_one_without_asking_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would give other threads their turn with every request."""
    monkeypatch.setattr(os, "urandom", lambda _: 1 / 0)
    given = {logs.request_id(chosen) for chosen in ("", "two words", "a" * 101)}
    assert len(given) == 3
    assert all(len(one) == 16 and logs.REQUEST_ID.fullmatch(one) for one in given)
    assert logs.request_id("mine-1") == "mine-1"
