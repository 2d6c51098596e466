"""One JSON object a line on stderr: time, level, event, and what belongs to it. Never headers, addresses' queries or bodies."""

import contextlib
import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
"""What a client may call its request."""


class Log:
    """Writes lines; a client's text is quoted by JSON, so that it cannot forge one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def info(self, event: str, **fields: Any) -> None:
        """Something as expected."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something to look at."""
        self._write("warning", event, fields)

    def refused(self, event: str, **fields: Any) -> None:
        """Something that went wrong."""
        self._write("error", event, fields)

    def handler(self) -> logging.Handler:
        """For a library's own warnings."""
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
        with contextlib.suppress(OSError, ValueError):  # nobody reads, or the disk is full: requests are answered all the same
            stream.write(line + "\n")
            stream.flush()
