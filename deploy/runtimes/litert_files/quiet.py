"""Opens TFLite files without the line that LiteRT writes to the process's stderr when it first uses a CPU, and has no switch for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from threading import Lock

_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
_STDERR = 2
_lock = Lock()


@contextmanager
def without_greeting() -> Iterator[None]:
    """Hold back what anyone in this process writes to stderr, and pass on everything but the greeting at the end.

    Without a stderr, or without a place for temporary files, nothing is held back.
    """
    with _lock:
        try:
            own, held = os.dup(_STDERR), TemporaryFile()  # noqa: SIM115 - closed below, after stderr is itself again
        except OSError:
            yield
            return
        with held:
            os.dup2(held.fileno(), _STDERR)
            try:
                yield
            finally:
                os.dup2(own, _STDERR)
                os.close(own)
                held.seek(0)
                _write(b"".join(line for line in held if not line.startswith(_GREETING)))


def _write(content: bytes) -> None:
    """All of it: a pipe may take less at a time."""
    with suppress(OSError):  # nobody reads it any more
        while content:
            content = content[os.write(_STDERR, content) :]
