"""What a program finds when it starts: streams that the caller has closed, and SIGTERM, which would end it without a word."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""What shells report of a program that was ended by SIGTERM."""

_STREAMS = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w"))


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends everything as Ctrl-C does."""


def open_closed_streams() -> None:
    """Lead streams that the caller has closed (`>&-`) nowhere; otherwise a file or connection opened next would take their number."""
    for number, (name, flags, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is not None:
            continue
        file = os.open(os.devnull, flags)
        if file != number and not _is_open(number):
            os.dup2(file, number)
            os.close(file)
            file = number
        setattr(sys, name, open(file, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - until the end of the program


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises Terminated in the main thread, unless somebody handles or ignores it already."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process forked from this one
            end_by_sigterm()
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_by_sigterm() -> None:
    """End as if nothing had handled the signal, so that whoever sent it sees that it was obeyed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
