"""Decodes images in processes of their own, each of which is ended when the request's time is over or its client has gone."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from threading import Lock, Thread
from time import monotonic
from typing import Any

import numpy as np

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.precision import Batch
from deploy.prediction.decoder import LENGTHS
from deploy.prediction.preprocess import Placement
from deploy.serving.clients import Rotation
from deploy.serving.logs import Log
from deploy.serving.refusals import Busy, Expired, Gone

POSSIBLE = os.name == "posix"
"""Whether a process can be given a socket; elsewhere images are decoded in the server."""
_NICENESS = 5
"""Small images, decoded in the server, come first."""
_LOOK_SECONDS = 0.1
"""Time between two looks at whether the client has gone."""


@dataclass(frozen=True)
class Bounds:
    """When an image must be decoded, on time.monotonic's clock, whether anybody still waits for it, and who."""

    deadline: float
    gone: Callable[[], bool]
    client: str = ""

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
    """Processes, started when they are first needed, that decode one image at a time each; clients get them in rotation."""

    def __init__(self, count: int, max_pixels: int, queue_size: int, log: Log) -> None:
        self._max_pixels = max_pixels
        # the rest of the queue is for images that need no process
        self._rotation = Rotation(count, most_waiting=3 * queue_size // 4, most_per_client=ceil(3 * queue_size / 8))
        self._log = log
        self._idle: list[_Process] = []
        self._started: set[_Process] = set()
        self._lock = Lock()

    def decode(self, content: bytes, preprocessing: Preprocessing, bounds: Bounds) -> tuple[Batch, Placement]:
        """The network's input [3, H, W] for an image file, and its place in it.

        Raises:
            DataError: it cannot be read, or two processes ended while they decoded it.
            Busy: too many images wait already, or no process can be started.
            Expired, Gone: see Bounds.
        """
        with ExitStack() as place:
            place.enter_context(self._rotation.place(bounds.client, bounds.left))
            asked = content, preprocessing, bounds, place
            answer, tensor = self._ask(*asked) or self._ask(*asked) or _UNREADABLE
        if "error" in answer:
            raise DataError(str(answer["error"]))
        shape = 3, preprocessing.height, preprocessing.width
        return np.frombuffer(tensor, np.float32).reshape(shape), Placement(**answer["placement"])

    def close(self) -> None:
        """End all processes."""
        for one in list(self._started):
            self._end(one)

    def _ask(self, content: bytes, preprocessing: Preprocessing, bounds: Bounds, place: ExitStack) -> "tuple[dict[str, Any], bytes] | None":
        """The answer; None if the process ended, perhaps because the machine had no memory left.

        A process that is too late gives its place back when it has ended, for which the request does not wait.
        """
        one = self._take()
        try:
            answer = one.ask(content, preprocessing, self._max_pixels, bounds)
        except OSError:
            self._log.warning("decoder ended", code=self._end(one), image_bytes=len(content))
            return None
        except BaseException:
            Thread(target=self._end_with, args=(one, place.pop_all()), name="end decoder").start()
            raise
        with self._lock:
            self._idle.append(one)
        return answer

    def _take(self) -> "_Process":
        """The process that was used last, so that no more are kept than are needed; one that has ended in the meantime is replaced."""
        with self._lock:
            while self._idle:
                one = self._idle.pop()
                if one.alive:
                    return one
                self._started.discard(one)
                one.end()
            try:
                one = _Process()
            except OSError as error:
                raise Busy(f"no process can be started to decode the image ({error.strerror}); retry later") from error
            self._started.add(one)
            return one

    def _end_with(self, one: "_Process", place: ExitStack) -> None:
        with place:
            self._end(one)

    def _end(self, one: "_Process") -> int:
        code = one.end()
        with self._lock:
            self._started.discard(one)
        return code


_UNREADABLE: tuple[dict[str, Any], bytes] = ({"error": "the image could not be decoded; save it again, as JPEG or PNG"}, b"")


class _Process:
    def __init__(self) -> None:
        found = os.pathsep.join(map(os.path.abspath, sys.path))  # the process does not start in this one's folder
        more = {"PYTHONPATH": found, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "deploy.prediction.decoder"]
        silent = subprocess.DEVNULL
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - nothing of a request is in the command
                    command, stdin=theirs.fileno(), stdout=silent, stderr=silent, env={**os.environ, **more}, cwd=os.sep
                )
        except BaseException:
            self._socket.close()
            raise
        with contextlib.suppress(OSError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICENESS)

    def ask(self, content: bytes, preprocessing: Preprocessing, max_pixels: int, bounds: Bounds) -> tuple[dict[str, Any], bytes]:
        """The answer; an OSError if the process has ended."""
        head = json.dumps({"preprocessing": preprocessing.model_dump(mode="json"), "max_pixels": max_pixels}).encode()
        for part in (LENGTHS.pack(len(head), len(content)), head, content):
            self._send(memoryview(part), bounds)
        text, tensor = (self._receive(count, bounds) for count in LENGTHS.unpack(self._receive(LENGTHS.size, bounds)))
        return json.loads(text), tensor

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def end(self) -> int:
        """Kill the process, and return its exit code; of one that a signal ended, the signal's negative number."""
        self._socket.close()
        self._process.kill()
        return self._process.wait()

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
