"""One line of a label file: a class and numbers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stages.datasets.layouts.text import fold
from stages.datasets.layouts.yolo import kinds
from stages.notes import Kind

_DECIMAL_COMMA = re.compile(r"^[+-]?\d+(,\d+)?$")
_WHOLE = re.compile(r"^[+-]?\d+$")


@dataclass(frozen=True, slots=True)
class ReadLine:
    """`number` counts from 1; `values` is what follows the class; `repairs` is what had to be repaired to read it."""

    number: int
    text: str
    category: int
    values: tuple[float, ...]
    repairs: tuple[Kind, ...] = ()


def parse(number: int, text: str, names: Mapping[str, int]) -> ReadLine | None:
    """The line; None if it does not consist of a class and at least four numbers.

    Args:
        names: class numbers by name.
    """
    words, repairs = _words(text)
    for start in range(1, len(words) - 3):
        values = _numbers(words[start:])
        found = None if values is None else _category(words[:start], names)
        if values is not None and found is not None:
            category, repair = found
            return ReadLine(number, text, category, values, (*repairs, *repair))
    return None


def is_blank(text: str) -> bool:
    """Whether the line has nothing to read: blank, or a comment."""
    text = text.strip()
    return not text or text.startswith(("#", "//"))


def _words(text: str) -> tuple[list[str], tuple[Kind, ...]]:
    """The line's words, and whether their separators had to be repaired."""
    text = text.strip().strip("\x1a\ufeff")
    words = text.split()
    if "," not in text and ";" not in text:
        return words, ()
    if ";" in text:
        return [word.strip().replace(",", ".") for word in text.strip("; ").split(";")], (kinds.SEPARATORS,)
    if len(words) > 4 and all(map(_DECIMAL_COMMA.match, words[1:])):
        return [word.replace(",", ".") for word in words], (kinds.SEPARATORS,)
    return (re.split(r"\s*,\s*|\s+", text.strip(", ")) if "." in text else []), (kinds.SEPARATORS,)


def _numbers(words: list[str]) -> tuple[float, ...] | None:
    try:
        return tuple(map(float, words))
    except ValueError:
        return None


def _category(words: list[str], names: Mapping[str, int]) -> tuple[int, tuple[Kind, ...]] | None:
    text = " ".join(words).strip("\"'")
    if len(words) == 1 and _WHOLE.match(text):
        return int(text[:20]), ()
    value = _numbers(words) if len(words) == 1 else None
    if value is not None:
        return (int(value[0]), (kinds.FLOAT_CLASS,)) if value[0].is_integer() else None
    if text in names:
        return names[text], (kinds.NAMED_CLASS,)
    alike = {number for name, number in names.items() if fold(name) == fold(text)}
    return (alike.pop(), (kinds.NAMED_CLASS,)) if len(alike) == 1 else None
