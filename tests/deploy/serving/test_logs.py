"""The log: a thread writes it, so that whoever reads it, or does not, holds up no request."""

import asyncio
import io
import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import artifact_samples as samples
import pytest
from clock import Clock
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


POSIX = pytest.mark.skipif(not hasattr(signal, "SIGTERM") or sys.platform == "win32", reason="pipes and signals of POSIX")
MALFORMED = request(b"garbage", headers="content-type: multipart/form-data; boundary=x\r\n")
HEALTH = request(b"", "/v2/health/ready", "GET")


def asked_unread(folder: Path, content: bytes, *settings: str) -> tuple[set[int], str]:
    """The statuses of 1000 answers of a server whose log nobody reads, and what was in the pipe when it had ended."""
    bundle = samples.bundle(folder / "made")

    async def ask(port: int) -> set[int]:
        client = Client(port)
        try:
            statuses = {(await asyncio.wait_for(client.ask(content), PATIENCE)).status for _ in range(1000)}
            assert (await asyncio.wait_for(client.ask(HEALTH), PATIENCE)).status == 200
            return statuses
        finally:
            client.close()

    program = [sys.executable, "-c", SLOW.format(seconds=0, changes="")]
    options = [f"--set={one}" for one in ("threads=1", "drain_seconds=0", *settings)]
    command = [*program, "serve", str(bundle.root), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said: list[dict[str, Any]] = []
            while not said or said[-1]["event"] != "serving":
                said.append(json.loads(process.stderr.readline()))
            port = int(next(line["address"] for line in said if line["event"] == "listening").rpartition(":")[2])
            statuses = asyncio.run(ask(port))
            process.send_signal(signal.SIGTERM)
            until(lambda: process.poll() is not None, "the server to end though nobody has read its log")
        finally:
            process.kill()
        assert process.returncode == 0
        return statuses, process.stderr.read()


@POSIX
def test_requests_are_answered_while_nobody_reads_the_log(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    asked = request(encoded({(0, 1): 0}), headers=f"x-request-id: {'a' * 100}\r\n")
    assert asked_unread(tmp_path, asked)[0] == {200}  # 200 kB of lines; a pipe takes 64


@POSIX
@pytest.mark.parametrize("workers", [1, 2])
def test_malformed_forms_hold_up_no_request_while_nobody_reads_what_their_parser_logs(tmp_path: Path, workers: int) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip("python_multipart")
    statuses, text = asked_unread(tmp_path, MALFORMED, f"workers={workers}")
    assert statuses == {400}
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    told = [line for line in lines if line["event"] == "library"]
    assert {line["name"].partition(".")[0] for line in told} == {"python_multipart"}
    assert len(told) <= 100


def test_a_library_that_says_the_same_again_and_again_fills_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), Clock()
    clock.replace(monkeypatch, "deploy.serving.logs.monotonic")
    with logs.libraries(Log(stream)):
        for number in range(1000):
            logging.getLogger("a.parser").warning("malformed %d", number)
        logging.getLogger("another").error("x" * 10_000)
        clock.seconds += 60
        logging.getLogger("a.parser").warning("malformed again")
    logging.getLogger("a.parser").warning("not here")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = [line for line in lines if line["name"] == "a.parser"]
    assert [line["message"] for line in told] == [*(f"malformed {number}" for number in range(20)), "malformed again"]
    assert [line.get("left_out") for line in told] == [*[None] * 20, 980]
    assert [len(line["message"]) for line in lines if line["name"] == "another"] == [2000]


def test_a_library_that_logs_wrongly_breaks_nothing() -> None:
    stream = io.StringIO()
    Log(stream).handler().handle(logging.LogRecord("a.parser", logging.WARNING, "parser.py", 1, "%d bytes", ("three",), None))
    assert json.loads(stream.getvalue())["message"] == "%d bytes"


def test_warnings_are_logged_and_their_texts_are_not_kept() -> None:
    stream, kept = io.StringIO(), dict[str | tuple[str, type[Warning], int], int]()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        with logs.libraries(Log(stream)):
            for number in range(100):
                warnings.warn_explicit(f"odd tag {number}", UserWarning, "images.py", 1, registry=kept)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert "odd tag 0" in lines[0]["message"]
    assert {(line["event"], line["name"]) for line in lines} == {("library", "py.warnings")}
    assert not [key for key in kept if key != "version"]


def test_a_request_without_an_id_of_its_own_gets_one_without_asking_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would give other threads their turn with every request."""
    monkeypatch.setattr(os, "urandom", lambda _: 1 / 0)
    given = {logs.request_id(chosen) for chosen in ("", "two words", "a" * 101)}
    assert len(given) == 3
    assert all(len(one) == 16 and logs.REQUEST_ID.fullmatch(one) for one in given)
    assert logs.request_id("mine-1") == "mine-1"
