"""Keeps TensorRT's messages for error messages instead of printing them."""

import re
from typing import Any

# The place in TensorRT's sources where an error was raised does not help users.
_ORIGIN = re.compile(r"^(\[\S+\] )?(\S+: )?Error Code \d+: ")
_SOURCE = re.compile(r"In \w+ at \S+:\d+")


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps errors instead of printing them; `reason()` is the first error since its last call."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def reason(self) -> str:
            first = self.errors[0] if self.errors else "no reason given"
            self.errors.clear()
            return plain(first)

    return Logger()


def plain(message: str) -> str:
    """A TensorRT error in one line, without the place in its sources."""
    words = _SOURCE.sub("", _ORIGIN.sub("", " ".join(message.split())))
    return re.sub(r"( \()+", ": ", " ".join(words.split())).rstrip(" ().:") or "no reason given"
