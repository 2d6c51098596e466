"""pydantic's errors as one line: the file, the key, what was given, what is allowed."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deploy.comparison.metrics import FORMER_NAMES
from deploy.errors import ConfigError
from deploy.plugins import suggest
from pipeline.config.document import Document, PathPart, reaches

_SHOULD_BE = "Input should be "


class Misfit(ValueError):
    """Two values that contradict each other; `path` is the one to change."""

    def __init__(self, path: Sequence[PathPart], message: str) -> None:
        super().__init__(message)
        self.path = list(path)


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> ConfigError:
    """The first error as one line; unknown keys come first, because they often cause the others."""
    findings = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    first = findings[0]
    path = _path(first, document.data)
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return ConfigError(f"{_place(document, path)}{finding(first, model)}{more}")


def refuse_coerced(document: Document, resolved: Mapping[str, Any]) -> None:
    """Refuse values that pydantic would silently convert to a different type: "12" to 12, true to 1.

    Raises:
        ConfigError: a value's type differs from its field's.
    """
    for path, given, taken in _pairs(document.data, resolved, ()):
        if _kind(given) != _kind(taken):
            raise ConfigError(f"{_place(document, path)}got {_shown(given)}, allowed: {_kind(taken)}")


def _place(document: Document, path: Sequence[PathPart]) -> str:
    dotted = ".".join(map(str, path))
    return f"{document.origin(path)}: {dotted}: " if dotted else f"{document.origin(path)}: "


def _path(found: ErrorDetails, data: Any) -> list[PathPart]:
    """Where the error is in the file, without the tags that pydantic adds for unions, which are not keys."""
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, Misfit):
        return cause.path
    path: list[PathPart] = []
    for key in found["loc"]:
        if reaches(data, [*path, key]):
            path.append(key)
    if found["type"] == "missing":
        path.append(found["loc"][-1])
    return path


def finding(found: ErrorDetails, model: type[BaseModel]) -> str:
    """An error in our words, without the place."""
    if found["type"] == "extra_forbidden":
        known = _siblings(model, found["loc"])
        return f"no such key{suggest(str(found['loc'][-1]), known)}; choose from {', '.join(known)}"
    if found["type"] in _WORDS:
        return _WORDS[found["type"]](found["input"], found.get("ctx", {}))
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] == "value_error":
        return message
    if message.startswith(_SHOULD_BE):
        return f"got {_shown(found['input'])}, allowed: {message.removeprefix(_SHOULD_BE)}"
    return f"got {_shown(found['input'])}; {message[0].lower()}{message[1:]}"


def _choice(given: Any, context: Mapping[str, Any]) -> str:
    words = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
    if (present := FORMER_NAMES.get(str(given))) in words:
        return f"{_shown(given)} is now called {present}"
    return f"got {_shown(given)}{suggest(str(given), words)}, allowed: {', '.join(words)}"


def _tag(given: Any, context: Mapping[str, Any]) -> str:
    words = context["expected_tags"].replace("'", "").split(", ")
    return f"no '{context['tag']}'{suggest(context['tag'], words)}; choose from {', '.join(words)}"


def _expected(what: str) -> Callable[[Any, Mapping[str, Any]], str]:
    return lambda given, _: f"got {_shown(given)}, allowed: {what}"


_WORDS: Mapping[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "missing": lambda *_: "missing, and has no default",
    "literal_error": _choice,
    "union_tag_invalid": _tag,
    "union_tag_not_found": lambda given, context: f"got {_shown(given)}, allowed: a mapping with {context['discriminator']}",
    "too_short": lambda given, context: f"got {len(given)} entries, allowed: at least {context['min_length']}",
    "string_pattern_mismatch": lambda given, context: f"got {_shown(given)}, allowed: text that matches {context['pattern']}",
    "string_type": _expected("text"),
    **dict.fromkeys(("model_type", "dict_type", "model_attributes_type"), _expected("a mapping")),
    **dict.fromkeys(("tuple_type", "list_type"), _expected("a list")),
}
"""Our words for pydantic's errors, by their type."""


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _siblings(model: type[BaseModel], path: Sequence[PathPart]) -> list[str]:
    """The keys that are allowed in place of the path's last one."""
    kinds = [model]
    for key in path[:-1]:
        if isinstance(key, str):
            inner = [kind for parent in kinds if key in parent.model_fields for kind in _models(parent.model_fields[key].annotation)]
            kinds = inner or [kind for kind in kinds if key in _tags(kind)]
    return [name for kind in kinds for name in kind.model_fields]


def _tags(kind: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(kind.model_fields["name"].annotation) if "name" in kind.model_fields else ()


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _pairs(given: Any, taken: Any, path: tuple[PathPart, ...]) -> Iterator[tuple[tuple[PathPart, ...], Any, Any]]:
    if isinstance(given, Mapping) and isinstance(taken, Mapping):
        for key in given:
            yield from _pairs(given[key], taken.get(key), (*path, key))
    elif isinstance(given, list) and isinstance(taken, list):
        for index, (one, other) in enumerate(zip(given, taken, strict=True)):
            yield from _pairs(one, other, (*path, index))
    else:
        yield path, given, taken


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case None:
            return "null"
    return "a list" if isinstance(value, list) else "a mapping"
