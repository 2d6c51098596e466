"""A command's answer, and how it is printed."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from deploy.errors import plain

_STREAMS = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_WRONLY, "w"), ("stderr", os.O_WRONLY, "w"))


@dataclass(frozen=True)
class Answer:
    """The same answer for programs (`data`) and for people (`text`), and the exit code it ends with.

    `commands` are lines for the program that runs this one in CI, such as annotations; they follow the text as they are.
    """

    data: Mapping[str, Any]
    text: str
    exit_code: int = 0
    commands: Sequence[str] = ()


def emit(answer: Answer, *, as_json: bool) -> None:
    """Print an answer to stdout, as one JSON object or as text; of several processes only the first prints."""
    if int(os.environ.get("RANK", "0")) > 0:
        return
    if as_json:
        _print(as_json_line(answer.data), sys.stdout)
    elif answer.text:
        _print("\n".join(map(plain, answer.text.split("\n"))), sys.stdout)
    for command in () if as_json else answer.commands:
        _print(command, sys.stdout)


def as_json_line(data: Mapping[str, Any]) -> str:
    """One JSON object in one line, in which no runner finds a command."""
    return json.dumps(data, allow_nan=False).replace("##", "\\u0023#")


def say(line: str, stream: TextIO) -> None:
    """Print a line immediately, with whatever others named escaped."""
    _print(plain(line), stream)


def _print(line: str, stream: TextIO) -> None:
    """Print. The work continues if the reader has gone (`| head`) or the terminal lacks a character."""
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def silent(line: str) -> None:
    """Discard a line."""


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


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
