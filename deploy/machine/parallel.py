"""A function on many items with all cores, results in the order of the items."""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from deploy import machine
from deploy.errors import ArtifactError

T = TypeVar("T")
R = TypeVar("R")

FEW = 200
"""With fewer items, threads are faster than starting processes."""
CHUNK = 32
"""Items that a process receives together."""
AHEAD = 8
"""Results per process that may wait for the caller."""
_WATCH_S = 1.0


def mapped(function: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
    """`function(item)` for each item: one process per core, or threads for few items and on systems that cannot fork.

    The work begins at once, whenever the results are asked for; closing the generator ends it. Processes are forked, so `function` may be
    anything, and must use no thread of this process; the items and results are pickled.

    Raises:
        ArtifactError: a process was killed.
    """
    results = _results(function, items)
    next(results)
    return results


def _results(function: Callable[[T], R], items: Sequence[T]) -> Generator[Any, None, None]:
    """None as soon as the work has begun, then the results."""
    cores = machine.num_cores()
    if cores < 2 or len(items) < FEW or not hasattr(os, "fork"):
        with ThreadPoolExecutor(cores) as threads:
            found = threads.map(function, items)
            try:
                yield
                yield from found
            finally:
                threads.shutdown(wait=True, cancel_futures=True)
        return
    with _forked(cores, function) as processes:
        results = processes.map(_apply, items, chunksize=CHUNK)
        yield
        yield from results


def ahead(function: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
    """`function(item)` for each item, made by one process per core while the caller works with earlier results; few are kept waiting.

    With one core, few items, or on systems that cannot fork, each result is made when it is asked for. `function` may be anything, but
    must use no thread of this process.

    Raises:
        ArtifactError: a process was killed.
    """
    cores = machine.num_cores()
    if cores < 2 or len(items) < FEW or not hasattr(os, "fork"):
        yield from map(function, items)
        return
    waiting: deque[Future[R]] = deque()
    with _forked(cores, function) as processes:
        for item in items:
            waiting.append(processes.submit(_apply, item))
            if len(waiting) > cores * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _forked(cores: int, function: Callable[[Any], Any]) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("fork")
    gc.freeze()  # so that collecting garbage in the processes does not copy this one's memory
    try:
        with ProcessPoolExecutor(cores, context, _begin, (os.getpid(), function)) as processes:
            try:
                yield processes
            finally:
                processes.shutdown(wait=True, cancel_futures=True)
    except BrokenProcessPool as error:
        raise ArtifactError("a process that reads files was killed (is memory full?); close other programs, then run again") from error
    finally:
        gc.unfreeze()


_functions: list[Callable[[Any], Any]] = []
"""In a forked process: what it inherited, and need not be sent."""


def _begin(parent: int, function: Callable[[Any], Any]) -> None:
    """In a new process: leave Ctrl-C to the parent, and end when the parent was killed, which would otherwise leave it waiting forever."""
    _functions.append(function)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _apply(item: Any) -> Any:
    return _functions[-1](item)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)
