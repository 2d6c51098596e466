"""What was found in files, kept with their sizes and times: as long as these are the same, nothing is read again."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from deploy.machine.files import replacing

T = TypeVar("T")

SETTLED_NS = 2 * 10**9
"""A file that changed so short a time ago may change again without a new time, so nothing is kept of it."""


class KnownFiles:
    """Answers about files, read from a JSON file when the first one is asked for. Nobody but the owner of the file writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, Any] | None = None
        self._changed = False

    def recall(self, what: str, files: Sequence[Path], find: Callable[[], T]) -> T:
        """The answer to `what` on unchanged files, otherwise what `find` returns: a value that JSON has."""
        began = time.time_ns()
        try:
            facts = [(str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns) for path in files for found in (path.stat(),)]
        except OSError:  # the file that cannot be read is named by whoever needs it
            return find()
        key = f"{what} {_hash([fact[0] for fact in facts])}"
        state = _hash(facts)
        known = self._known()
        if key in known and known[key]["state"] == state:
            kept: T = known[key]["answer"]
            return kept
        answer = find()
        if all(max(fact[2:]) + SETTLED_NS < began for fact in facts):
            known[key], self._changed = {"state": state, "answer": answer}, True
        return answer

    def save(self) -> None:
        """Write what was found, completely or not at all; nothing if the folder does not exist or may not be written to."""
        if not self._changed or not os.access(self.path.parent, os.W_OK):
            return
        with replacing(self.path) as scratch:
            scratch.write_text(json.dumps(self._known()), encoding="utf-8")
        self._changed = False

    def _known(self) -> dict[str, Any]:
        if self._answers is None:
            self._answers = _read(self.path)
        return self._answers


_CURRENT: ContextVar[KnownFiles | None] = ContextVar("known files", default=None)


@contextmanager
def kept_in(path: Path, *, writes: bool = True) -> Iterator[None]:
    """Inside, `recall` uses the answers in this file and, if it `writes`, adds to them."""
    known = KnownFiles(path)
    token = _CURRENT.set(known)
    try:
        yield
    finally:
        _CURRENT.reset(token)
        if writes:
            known.save()


def recall(what: str, files: Sequence[Path], find: Callable[[], T]) -> T:
    """See KnownFiles.recall; outside of `kept_in` nothing is kept.

    Args:
        what: the question; a different one for a different kind of answer, and for a different way to find it.
        files: everything that the answer depends on.
    """
    known = _CURRENT.get()
    return find() if known is None else known.recall(what, files, find)


def folder() -> Path | None:
    """The folder where answers are kept, for those too large for one file; None outside of `kept_in`, or if it cannot be written to."""
    known = _CURRENT.get()
    return None if known is None or not os.access(known.path.parent, os.W_OK) else known.path.parent


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any]:
    """The answers; none if the file does not exist or is damaged, since all of them can be found again."""
    try:
        found = json.loads(path.read_bytes())
        return {key: one for key, one in found.items() if isinstance(one, dict) and one.keys() == {"state", "answer"}}
    except (OSError, ValueError, AttributeError):
        return {}
