"""Decodes images in processes of their own, each of which is ended when the request's time is over or its client has gone."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Lock
from time import monotonic
from typing import Any

import numpy as np

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.precision import Batch
from deploy.prediction.decoder import LENGTHS
from deploy.prediction.preprocess import Placement
from deploy.serving.refusals import Expired, Gone

_LOOK_SECONDS = 0.1
"""Time between two looks at whether the client has gone."""


@dataclass(frozen=True)
class Bounds:
    """When an image must be decoded, on time.monotonic's clock, and whether anybody still waits for it."""

    deadline: float
    gone: Callable[[], bool]

    def left(self) -> float:
        """Seconds until the next look.

        Raises:
            Expired: the time is over.
            Gone: nobody waits any more.
        """
        if self.gone():
            raise Gone("the client went away")
        seconds = self.deadline - monotonic()
        if seconds <= 0:
            raise Expired("the image was not decoded within the request's time")
        return min(seconds, _LOOK_SECONDS)


class Decoders:
    """Processes, started when they are first needed, that decode one image at a time each."""

    def __init__(self, count: int, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._free: Queue[_Process | None] = Queue()
        for _ in range(count):
            self._free.put(None)
        self._started: set[_Process] = set()
        self._lock = Lock()

    def decode(self, content: bytes, preprocessing: Preprocessing, bounds: Bounds) -> tuple[Batch, Placement]:
        """The network's input [3, H, W] for an image file, and its place in it.

        Raises:
            DataError: it cannot be read.
            Expired, Gone: see Bounds.
        """
        one = self._take(bounds)
        kept: _Process | None = None
        try:
            one = one or self._start()
            answer, tensor = one.ask(content, preprocessing, self._max_pixels, bounds)
            kept = one
        except OSError as error:
            raise DataError("the image could not be decoded; save it again, as JPEG or PNG") from error
        finally:
            if kept is None and one is not None:
                self._end(one)
            self._free.put(kept)
        if "error" in answer:
            raise DataError(str(answer["error"]))
        shape = 3, preprocessing.height, preprocessing.width
        return np.frombuffer(tensor, np.float32).reshape(shape), Placement(**answer["placement"])

    def close(self) -> None:
        """End all processes."""
        for one in list(self._started):
            self._end(one)

    def _take(self, bounds: Bounds) -> "_Process | None":
        while True:
            with contextlib.suppress(Empty):
                return self._free.get(timeout=bounds.left())

    def _start(self) -> "_Process":
        one = _Process(self._max_pixels)
        with self._lock:
            self._started.add(one)
        return one

    def _end(self, one: "_Process") -> None:
        with self._lock:
            self._started.discard(one)
        one.end()


class _Process:
    def __init__(self, max_pixels: int) -> None:
        ours, theirs = socket.socketpair()
        found = os.pathsep.join(map(os.path.abspath, sys.path))  # the process does not start in this one's folder
        more = {"PYTHONPATH": found, "EDGEDISTILL_DECODER_PIXELS": str(max_pixels), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "deploy.prediction.decoder"]
        silent = subprocess.DEVNULL
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - nothing of a request is in the command
                command, stdin=theirs.fileno(), stdout=silent, stderr=silent, env={**os.environ, **more}, cwd=os.sep
            )
        self._socket = ours

    def ask(self, content: bytes, preprocessing: Preprocessing, max_pixels: int, bounds: Bounds) -> tuple[dict[str, Any], bytes]:
        """The answer; an OSError if the process has ended."""
        head = json.dumps({"preprocessing": preprocessing.model_dump(mode="json"), "max_pixels": max_pixels}).encode()
        for part in (LENGTHS.pack(len(head), len(content)), head, content):
            self._send(memoryview(part), bounds)
        text, tensor = (self._receive(count, bounds) for count in LENGTHS.unpack(self._receive(LENGTHS.size, bounds)))
        return json.loads(text), tensor

    def end(self) -> None:
        """Kill the process."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _send(self, left: memoryview, bounds: Bounds) -> None:
        while left:
            self._socket.settimeout(bounds.left())
            with contextlib.suppress(TimeoutError):
                left = left[self._socket.send(left) :]

    def _receive(self, count: int, bounds: Bounds) -> bytes:
        content = bytearray(count)
        left = memoryview(content)
        while left:
            self._socket.settimeout(bounds.left())
            with contextlib.suppress(TimeoutError):
                taken = self._socket.recv_into(left)
                if not taken:
                    raise ConnectionResetError("the decoder has ended")
                left = left[taken:]
        return bytes(content)
