"""Progress of a loop: a bar on a terminal, an occasional plain line elsewhere, nothing in processes of rank 1 and above."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

from deploy.errors import plain

T = TypeVar("T")

LINE_SECONDS = 10.0
"""Minimum time between two plain lines."""


class Steps:
    """Counts steps from `start` towards a total; a context manager. Writes to stderr, because stdout is for results.

    phase: what is being done for the next step, such as "reads images". moved: when a step was counted last, on time.monotonic's clock.
    """

    def __init__(self, label: str, total: int | None = None, start: int = 0) -> None:
        self.label = label
        self.total = total
        self.start = start
        self.done = self._shown = start
        self.note = self.phase = ""
        self._silent = int(os.environ.get("RANK", "0")) > 0
        self._bar = (
            tqdm(desc=label, total=total, initial=start, leave=False, dynamic_ncols=True) if _on_terminal() and not self._silent else None
        )
        self._started = self._printed = self.moved = time.monotonic()

    def advance(self, note: str = "") -> None:
        """Count one step; `note` is shown next to the count ("loss 0.71")."""
        self.done += 1
        self.moved = time.monotonic()
        self.note = note or self.note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._printed >= LINE_SECONDS:
            self._line()

    def __enter__(self) -> Self:
        _running.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self in _running:
            _running.remove(self)
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._shown not in (self.start, self.done):
            self._line()

    def _line(self) -> None:
        self._printed, self._shown = time.monotonic(), self.done
        if self._silent:
            return
        seconds = self._printed - self._started
        text = f"{self.label}: {self.done}"
        if self.total:
            left = seconds / max(self.done - self.start, 1) * max(self.total - self.done, 0)
            text += f"/{self.total} ({self.done / self.total:.0%}), {seconds:.0f} s" + (f", {left:.0f} s left" if left else "")
        sys.stderr.write(f"{text}{f', {self.note}' if self.note else ''}\n")
        sys.stderr.flush()


_running: list[Steps] = []


def current() -> Steps | None:
    """The innermost loop that is running."""
    return _running[-1] if _running else None


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The items, one by one, with their progress shown; `total` defaults to len(items) if it has one."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Steps(label, total) as steps:
        for item in items:
            yield item
            steps.advance()


def note(text: str) -> None:
    """Print a line that a user should see, without breaking a progress bar."""
    if int(os.environ.get("RANK", "0")) == 0:
        tqdm.write(plain(text), file=sys.stderr)


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("CI", "").lower() not in ("1", "true", "yes")
