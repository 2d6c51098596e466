"""Waiting for threads and processes, with a deadline: what never comes fails a test, it does not hang it."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine; nothing is expected to take as long."""


def until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Ask again and again until the answer is truthy, and return it.

    Raises:
        AssertionError: it never was within the seconds; names what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.005)
    return answer


def join(thread: threading.Thread, seconds: float = PATIENCE) -> None:
    """Wait for a thread to end.

    Raises:
        AssertionError: it is still running.
    """
    thread.join(seconds)
    assert not thread.is_alive(), f"{thread.name} still runs after {seconds:g} s"
