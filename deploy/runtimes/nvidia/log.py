"""What TensorRT says, kept for error messages instead of printed."""

import re
from typing import Any

# Where TensorRT's sources raised an error says nothing to its users.
_ORIGIN = re.compile(r"^(\[\S+\] )?(\S+: )?Error Code \d+: ")
_SOURCE = re.compile(r"In \w+ at \S+:\d+")


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps errors to itself instead of printing; `reason()` is the first since it was last asked."""

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
    """An error of TensorRT's in one line, without the place in its sources."""
    words = _SOURCE.sub("", _ORIGIN.sub("", " ".join(message.split())))
    return re.sub(r"( \()+", ": ", " ".join(words.split())).rstrip(" ().:") or "no reason given"
