"""A server in a process of its own, and a client that sends many requests at once over plain sockets."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import onnx_samples
from PIL import Image
from waiting import PATIENCE, join, until

from deploy.bundles.trust import ANYONE, Trust
from deploy.serving.logs import Log
from deploy.serving.options import ServeConfig

SLOW = """
import sys, time
from deploy.runtimes.ort import OrtSession
from deploy.serving import process
{changes}
fast = OrtSession.infer
def infer(self, images):
    time.sleep({seconds} * len(images))
    return fast(self, images)
OrtSession.infer = infer
from pipeline.cli import main
sys.exit(main())
"""
"""An engine whose speed is known: it rests so long for each image; and a server whose constants may be changed."""


def encoded(cells: dict[tuple[int, int], int], kind: str = "PNG") -> bytes:
    """The bytes of the picture with these cells."""
    file = io.BytesIO()
    Image.fromarray(onnx_samples.picture(cells)).save(file, kind)
    return file.getvalue()


class Running:
    """A server on a thread, on free ports."""

    def __init__(self, folder: Path, *, trust: Trust = ANYONE, **options: Any) -> None:
        from deploy.serving import process
        from deploy.serving.service import Service

        self.lines = io.StringIO()
        config = ServeConfig(port=0, grpc_port=0, threads=1, max_batch_size=2, drain_seconds=0, **options)
        self.listener = process.listen("127.0.0.1", 0)
        self.service = Service(folder, config, log=Log(self.lines), trust=trust)
        self.server = process._Server(self.service, self.listener)
        self._thread = threading.Thread(target=lambda: asyncio.run(self.server.run()), name="server", daemon=True)
        self._thread.start()
        until(lambda: "grpc://" in self.lines.getvalue() or not self._thread.is_alive(), "the server to start")
        assert self._thread.is_alive(), self.lines.getvalue()

    @property
    def http(self) -> str:
        return self._address("http://")

    @property
    def grpc(self) -> str:
        return self._address("grpc://")

    def log(self) -> list[dict[str, Any]]:
        """Its lines."""
        return [json.loads(line) for line in self.lines.getvalue().splitlines()]

    def _address(self, scheme: str) -> str:
        return str(next(line["address"] for line in self.log() if line.get("address", "").startswith(scheme)).removeprefix(scheme))

    def stop(self) -> None:
        self.server.should_exit = True
        join(self._thread)
        self.listener.close()


class Server:
    """`edgedistill serve` on a free port; a context manager that ends it.

    `program` is another one than the slow engine's; `changes` are statements about `deploy.serving.process` in that one. Once it is `deaf`,
    nobody reads its log.
    """

    def __init__(
        self,
        bundle: Path,
        *settings: str,
        seconds: float = 0.0,
        changes: str = "",
        program: Sequence[object] = (),
        allow_ungated: bool = False,
    ) -> None:
        self.deaf = False
        options = [f"--set={setting}" for setting in ("threads=1", *settings)] + ["--allow-ungated"] * allow_ungated
        slow = (sys.executable, "-c", SLOW.format(seconds=seconds, changes=changes))
        command = [*map(str, program or slow), "serve", str(bundle), "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, bufsize=1)
        self.lines: list[dict[str, Any]] = []
        self.last_words: list[str] = []
        self._reading = threading.Thread(target=self._read, daemon=True)  # a pipe that nobody empties would hold the server up
        self._reading.start()
        try:
            self.port = int(self.until("listening")["address"].rpartition(":")[2])
            self.until("serving")
        except BaseException:
            self.process.kill()
            self.end()
            raise

    def _read(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            if not text.startswith("{"):
                self.last_words.append(text)
                continue
            line = json.loads(text)
            if self.deaf:
                return
            if line["event"] != "request" or line["path"] == "/v1/detect":
                self.lines.append(line)

    def until(self, event: str) -> dict[str, Any]:
        """Wait for an event in the log."""
        until(lambda: self.said(event) or not self._reading.is_alive(), f"'{event}' in the server's log")
        assert self.said(event), (self.lines, self.last_words)
        return self.said(event)[0]

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of an event."""
        return [line for line in list(self.lines) if line["event"] == event]

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        os.kill(self.process.pid, number)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        self.process.wait(PATIENCE)
        join(self._reading)
        return self.process.returncode

    def answered(self, status: int) -> int:
        """How many requests for detections the log says were answered so."""
        return sum(line.get("path") == "/v1/detect" and line["status"] == status for line in list(self.lines))

    def memory_kib(self) -> int:
        """Resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        assert self.process.stderr is not None
        self.process.stderr.close()


def request(body: bytes, path: str = "/v1/detect", method: str = "POST", headers: str = "") -> bytes:
    """A request as it goes over the wire."""
    return f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


@dataclass
class Reply:
    """One answer; status 0 where the connection ended without."""

    status: int
    body: bytes
    seconds: float
    headers: dict[str, str] = field(default_factory=dict)


class Client:
    """A connection that is opened again when the server closes it; from a chosen address of this machine."""

    def __init__(self, port: int, host: str | None = None) -> None:
        self.port = port
        self._from = (host, 0) if host else None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, content: bytes) -> Reply:
        """Send bytes and read an answer; ConnectionRefusedError where nobody listens."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=self._from)
        start = time.monotonic()
        try:
            self._writer.write(content)
            await self._writer.drain()
            reply = await self._read(start)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.close()
            return Reply(0, b"", time.monotonic() - start)
        if reply.headers.get("connection") == "close":
            self.close()
        return reply

    async def _read(self, start: float) -> Reply:
        assert self._reader is not None
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in rest if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(first.split()[1]), body, time.monotonic() - start, headers)

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def once(port: int, content: bytes) -> Reply:
    """Ask on a connection of its own."""
    client = Client(port)
    try:
        return await client.ask(content)
    finally:
        client.close()
        await asyncio.sleep(0)


async def load(
    port: int,
    connections: int,
    content: Callable[[int], bytes],
    go_on: Callable[[int], bool],
    *,
    heard: Callable[[Reply], None] = lambda _: None,
    seconds: float = 500.0,
) -> list[Reply]:
    """Ask on every connection, one request after the other, while `go_on(number of answers)`; ends, too, when nobody listens.

    Args:
        heard: called with every answer.
        seconds: after which it is an AssertionError that `go_on` still says so.
    """
    replies: list[Reply] = []
    deadline = time.monotonic() + seconds

    async def one() -> None:
        client = Client(port)
        while go_on(len(replies)):
            assert time.monotonic() < deadline, f"still asking after {seconds:g} s and {len(replies)} answers"
            try:
                replies.append(await client.ask(content(len(replies))))
            except (ConnectionRefusedError, ConnectionResetError):
                break
            heard(replies[-1])
        client.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return replies
