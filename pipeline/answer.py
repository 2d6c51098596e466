"""A command's answer, and how it is printed."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from deploy.errors import plain


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


def hold_streams() -> None:
    """Open /dev/null for standard streams that were closed (`>&-`): files opened later would get their numbers, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the process ends


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
