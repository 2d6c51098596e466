"""One JSON object per line on stderr: time, level, event and the event's fields. Headers, URL queries and bodies are never logged."""

import contextlib
import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
"""Request ids that a client may choose."""


class Log:
    """Writes lines; JSON quotes a client's text, so it cannot forge a line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

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

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, "level": level, "event": event, **fields}, default=str)
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError, ValueError):  # nobody reads, or the disk is full: requests are answered anyway
            stream.write(line + "\n")
            stream.flush()
