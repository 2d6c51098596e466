"""What a command answers, and how it is printed."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(frozen=True)
class Answer:
    """The same answer for programs (`data`) and for people (`text`), and the exit code it ends with."""

    data: Mapping[str, Any]
    text: str
    exit_code: int = 0


def emit(answer: Answer, *, as_json: bool) -> None:
    """Print an answer to stdout, one JSON object or text; nothing in the processes after the first."""
    if int(os.environ.get("RANK", "0")) > 0:
        return
    text = json.dumps(answer.data, allow_nan=False) if as_json else answer.text
    if text:
        say(text, sys.stdout)


def say(line: str, stream: TextIO) -> None:
    """Print a line at once. A reader that has gone (`| head`) does not end the work, nor does a terminal without our characters."""
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def silent(line: str) -> None:
    """Say nothing."""
