"""One JSON object per line on stderr: time, level, event and the event's fields. Headers, URL queries and bodies are never logged."""

import contextlib
import json
import logging
import os
import re
import sys
import traceback
from datetime import UTC, datetime
from queue import Full, Queue
from random import getrandbits
from threading import Event, Lock, Thread
from time import sleep
from typing import Any, TextIO

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
"""Request ids that a client may choose."""


def request_id(chosen: str) -> str:
    """The id that a client has chosen if it is allowed, otherwise a new one.

    It is no secret: asking the system for random bytes would let other threads go first, for milliseconds under load.
    """
    return chosen if REQUEST_ID.fullmatch(chosen) else f"{getrandbits(64):016x}"


MOST_WAITING = 4096
"""Lines that wait for whoever reads the log; more are dropped, and counted in the next line."""
_PAUSE_S = 0.02
"""Time after a line in which others gather, so that a busy server's log need not wake a thread for each request."""


class Log:
    """Writes lines; JSON quotes a client's text, so it cannot forge a line.

    A thread writes them to stderr, so that a pipe that nobody empties holds up no request. A given stream is written to immediately.
    `common` fields are in every line.
    """

    def __init__(self, stream: TextIO | None = None, **common: Any) -> None:
        self._stream = stream
        self._common = common
        self._lines: Queue[str | Event] = Queue(MOST_WAITING)
        self._dropped = 0
        self._lock = Lock()
        self._thread: Thread | None = None

    def info(self, event: str, **fields: Any) -> None:
        """An expected event."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """An event that deserves attention."""
        self._write("warning", event, fields)

    def refused(self, event: str, **fields: Any) -> None:
        """An event that went wrong."""
        self._write("error", event, fields)

    def handler(self) -> logging.Handler:
        """A handler that logs a library's own warnings here."""
        log = self

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                more = {"traceback": traceback.format_exception(record.exc_info[1])} if record.exc_info else {}
                log.warning("library", name=record.name, message=record.getMessage(), **more)

        return Handler(logging.WARNING)

    def flush(self, seconds: float = 1.0) -> None:
        """Wait until everything is written, but no longer than this for a reader that does not read."""
        if self._thread is not None:
            written = Event()
            with contextlib.suppress(Full):
                self._lines.put(written, timeout=seconds)
                written.wait(seconds)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        line = _line(level, event, {**self._common, **fields})
        if self._stream is None and (file := _stderr()) is not None:
            self._write_later(line + "\n", file)
            return
        stream = self._stream or sys.stderr
        if stream is not None:  # stderr may be closed
            with contextlib.suppress(OSError, ValueError):  # nobody reads, or the disk is full: requests are answered anyway
                stream.write(line + "\n")
                stream.flush()

    def _write_later(self, line: str, file: int) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._write_all, args=(file,), name="log", daemon=True)
                self._thread.start()
            try:
                self._lines.put_nowait(line)
            except Full:
                self._dropped += 1

    def _write_all(self, file: int) -> None:
        """Directly, since stderr's own lock would still be held when the program ends while nobody reads."""
        while True:
            line = self._lines.get()
            if isinstance(line, Event):
                line.set()
                continue
            _write(file, line)
            with self._lock:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                _write(file, _line("warning", "log lines dropped", {**self._common, "count": dropped}) + "\n")
            if self._lines.empty():
                sleep(_PAUSE_S)


def _line(level: str, event: str, fields: dict[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, "level": level, "event": event, **fields}, default=str)


def _stderr() -> int | None:
    """The number of stderr's file; None if it is closed, or is no file."""
    try:
        return None if sys.stderr is None else sys.stderr.fileno()
    except (OSError, ValueError):
        return None


def _write(file: int, line: str) -> None:
    left = memoryview(line.encode("utf-8", "backslashreplace"))
    with contextlib.suppress(OSError):  # nobody reads, or the disk is full: requests are answered anyway
        while left:
            left = left[os.write(file, left) :]
