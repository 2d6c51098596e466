"""YAML and JSON that others may have written, within bounds: on nesting, on what aliases become, on the length of numbers."""

import json
from typing import Any

import yaml
from yaml.composer import Composer

DEEPEST, LONGEST_NUMBER = 64, 100
"""Bounds on the levels of a document and on the characters of a number."""

NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
"""YAML's tags of numbers."""

_DIGITS = bytes(ord("0") if chr(code).isdigit() and code < 128 else ord(" ") for code in range(256))
_NOT_BRACKETS = bytes(code for code in range(256) if code not in b"[]{}")


class Bounded(Composer):
    """Base of loaders of at most `most` values, each alias counted as what it stands for."""

    most = 100_000

    def __init__(self, text: str) -> None:
        """Begin to load a text."""
        super().__init__(text)  # type: ignore[call-arg]
        self._level = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        """Values in a node, aliases included, and levels, by the node's id."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node and count it; anchors are complete before their aliases, unless an alias is inside its own anchor."""
        event: Any = self.peek_event()  # type: ignore[attr-defined]
        mark = event.start_mark
        self._level += 1
        self._refuse_deep(self._level, event)
        node = super().compose_node(parent, index)
        assert node is not None
        self._level -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise yaml.MarkedYAMLError(problem="an alias that contains itself", problem_mark=mark)
        else:
            self._sizes[id(node)] = self._size(node)
        num, levels = self._sizes[id(node)]
        self._refuse_deep(levels, event)
        if num > self.most:
            raise yaml.MarkedYAMLError(problem=f"more than {self.most:,} values, aliases included", problem_mark=mark)
        return node

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
                problem = f"a number of {len(node.value):,} characters, allowed: {LONGEST_NUMBER}"
                mark: Any = node.start_mark
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
            return 1, 1
        inner = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
        sizes = [self._sizes[id(one)] for one in inner]
        return 1 + sum(num for num, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)

    def _refuse_deep(self, levels: int, event: Any) -> None:
        if levels > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} levels deep", problem_mark=event.start_mark)


def parse_yaml(text: str, loader: Any) -> Any:
    """Parse a YAML document.

    Args:
        loader: a class that is both Bounded and a safe loader of PyYAML.

    Raises:
        YAMLError: it is not YAML, is not within the bounds, or has a value that does not fit its tag.
    """
    try:
        return yaml.load(text, loader)  # noqa: S506 - a SafeLoader
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # raised for values that do not fit a tag, such as !!bool x
        raise yaml.YAMLError(f"a value that does not fit its tag ({error})") from error


def parse_json(content: str | bytes) -> Any:
    """Parse a JSON document.

    Raises:
        ValueError: it is not JSON in UTF-8, or is not within the bounds.
    """
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    long, suspicious = has_long_number(raw), _may_be_deep(raw)
    del raw  # a COCO file takes hundreds of MB
    try:
        found = json.loads(text, parse_int=_whole) if long else json.loads(text)
        deep = suspicious and levels(found) > DEEPEST
    except RecursionError:
        deep = True
    if deep:
        raise ValueError(f"nested more than {DEEPEST} levels deep")
    return found


def _may_be_deep(raw: bytes) -> bool:
    """Whether brackets are left after the innermost pairs were removed DEEPEST times; also true if strings have odd ones."""
    brackets = raw.translate(None, _NOT_BRACKETS)
    for _ in range(DEEPEST):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)


def has_long_number(raw: bytes) -> bool:
    """Whether there are more than LONGEST_NUMBER digits in a row."""
    return b"0" * (LONGEST_NUMBER + 1) in raw.translate(_DIGITS)


def levels(value: Any) -> int:
    """Of how many levels of lists and dictionaries a value consists, at least 1."""
    levels, current = 0, [value]
    while current:
        levels += 1
        inner = [one for one in current if isinstance(one, dict | list)]
        current = [item for one in inner for item in (one.values() if isinstance(one, dict) else one)]
    return levels


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits):,} digits, allowed: {LONGEST_NUMBER}")
    return int(digits)
