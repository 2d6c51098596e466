"""One JSON object a line on stderr: time, level, event, and what belongs to it. Never headers, addresses' queries or bodies."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO


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
                log.warning("library", name=record.name, message=record.getMessage())

        return Handler(logging.WARNING)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, "level": level, "event": event, **fields}, default=str)
        stream = self._stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()
