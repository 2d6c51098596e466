"""One JSON object per line on stderr: time, level, event and the event's fields. Headers, URL queries and bodies are never logged."""

import contextlib
import json
import logging
import math
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Full, Queue
from random import getrandbits
from threading import Event, Lock, Thread
from time import monotonic, sleep
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
_LIBRARY_LINES, _LIBRARY_SECONDS = 20, 10.0
"""How much of what one logger of a library says is logged, lines per seconds; the next line counts what was left out."""
_LIBRARY_CHARACTERS = 2000
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
        """A handler that logs a library's own warnings here, though not all of those that clients can cause at will."""
        log, loggers = self, dict[str, _Said]()

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                said = loggers.setdefault(record.name, _Said())
                if not said.may_say(monotonic()):
                    return
                more: dict[str, Any] = {"traceback": traceback.format_exception(record.exc_info[1])} if record.exc_info else {}
                more |= {"left_out": said.take_left_out()} if said.left_out else {}
                log.warning("library", name=record.name, message=_message(record)[:_LIBRARY_CHARACTERS], **more)

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


def _message(record: logging.LogRecord) -> str:
    """A record's text, and its form alone if a library has given it other values than it asks for."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return str(record.msg)


@contextlib.contextmanager
def libraries(log: Log) -> Iterator[None]:
    """Until the end, what any library logs and Python's warnings go to `log`, not to stderr, where they would hold up the event loop.

    Python remembers the text of a warning so as not to repeat it. Texts with a client's bytes would add up, so it is to repeat them.
    """
    root, handler = logging.getLogger(), log.handler()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", append=True)
            logging.captureWarnings(True)
            try:
                yield
            finally:
                logging.captureWarnings(False)
    finally:
        root.removeHandler(handler)


@dataclass
class _Said:
    """What one logger has said in the current _LIBRARY_SECONDS."""

    since: float = -math.inf
    lines: int = 0
    left_out: int = 0

    def may_say(self, now: float) -> bool:
        """Whether there is room for one more line, which is counted."""
        if now - self.since >= _LIBRARY_SECONDS:
            self.since, self.lines = now, 0
        self.lines += 1
        self.left_out += self.lines > _LIBRARY_LINES
        return self.lines <= _LIBRARY_LINES

    def take_left_out(self) -> int:
        """How many lines were left out since the last time."""
        count, self.left_out = self.left_out, 0
        return count


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
