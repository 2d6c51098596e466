"""YAML files as plain values: refuses duplicate keys, follows `extends`, applies `--set`, and records where each value came from."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import ConfigError
from deploy.machine.documents import NUMBERS, Bounded, parse_yaml
from deploy.machine.files import read_text
from pipeline.config.overrides import Setting, apply

EXTENDS = "extends"

PLUGINS: Mapping[tuple[str, ...], str] = {("data",): "dataset", ("teacher", "detector"): "name", ("student", "detector"): "name"}
"""The key that names the plugin, for each section of a plugin that is not in a list; lists are never merged."""

PathPart = str | int

_MOST_BYTES, _MOST_FILES = 2**20, 20
"""Bounds on the size of a file, and on how many files extend one another."""

_OTHER_BASES = re.compile(r"[-+]?(0[\d_]+|0b.+|.+:.+)$")
"""Numbers that YAML 1.1 reads in base 8, 2 and 60: 010 is 8 to it, 1:30 is 90."""

_DATE = "tag:yaml.org,2002:timestamp"
"""YAML's tag of dates, which no key takes."""


class _Loader(Bounded, yaml.SafeLoader):
    """Safe YAML: a key given twice is an error, 1e-3 is a number, dates and what would be a number in an unexpected base are text."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        return self.DEFAULT_SCALAR_TAG if tag == _DATE or (tag in NUMBERS and _OTHER_BASES.match(value)) else tag

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789"))


def parse(text: str, label: str) -> Any:
    """Parse YAML; error messages start with `label`. Aliases become copies.

    Raises:
        ConfigError: the text is not YAML, is not within the bounds of `documents`, or gives a key twice.
    """
    try:
        return _copied(parse_yaml(text, _Loader))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark and "\n" in text else ""
        raise ConfigError(f"{label}{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{label}: {' '.join(str(error).split())}") from error


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Document:
    """The merged values; `files` are their sources, the outermost first, and `settings` are applied on top."""

    data: dict[str, Any]
    files: tuple[tuple[str, Mapping[str, Any]], ...]
    settings: tuple[Setting, ...]

    def origin(self, path: Sequence[PathPart]) -> str:
        """The `--set` or the file that sets the value at a path."""
        keys = [str(key) for key in path]
        for setting in reversed(self.settings):
            shared = min(len(keys), len(setting.path))
            if shared and list(setting.path[:shared]) == keys[:shared]:
                return f"--set {setting.text}"
        for depth in range(len(path), 0, -1):
            for label, data in self.files:
                if reaches(data, path[:depth]):
                    return label
        return self.files[0][0]


def reaches(data: Any, path: Sequence[PathPart]) -> bool:
    """Whether there is a value at a path."""
    for key in path:
        there = key in data if isinstance(data, Mapping) else isinstance(data, list) and isinstance(key, int) and key < len(data)
        if not there:
            return False
        data = data[key]
    return True


def read_document(path: Path, settings: Sequence[str] = ()) -> Document:
    """Read a file and what it extends, and apply `--set` settings.

    Raises:
        ConfigError: a file cannot be read or extends itself, or a setting's path does not exist.
    """
    files = tuple(_chain(path, ()))
    data: dict[str, Any] = {}
    for _, layer in reversed(files):
        data = merged(data, layer)
    parsed = tuple(Setting.parse(text, parse) for text in settings)
    for setting in parsed:
        apply(data, setting)
    return Document(data, files, parsed)


def _chain(path: Path, inside: tuple[Path, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.resolve() in inside:
        raise ConfigError(f"{inside[-1]}: extends {path}, which extends it in turn")
    if len(inside) >= _MOST_FILES:
        raise ConfigError(f"{inside[0]}: more than {_MOST_FILES} files that extend one another; join some")
    data = _read(path, inside)
    base = data.pop(EXTENDS, None)
    yield str(path), data
    if base is None:
        return
    if not isinstance(base, str):
        raise ConfigError(f"{path}: {EXTENDS}: got {base!r}, allowed: one file name, relative to this file")
    yield from _chain(path.parent / base, (*inside, path.resolve()))


def _read(path: Path, inside: Sequence[Path]) -> dict[str, Any]:
    try:
        text = read_text(path, most=_MOST_BYTES)
    except FileNotFoundError as error:
        remedy = f"{inside[-1]} extends it: name one relative to that" if inside else "pass a configuration file such as pipeline.yaml"
        raise ConfigError(f"{path}: no such file; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    data = parse(text, str(path))
    if not isinstance(data, dict):
        given = "an empty file" if data is None else type(data).__name__
        raise ConfigError(f"{path}: got {given}, allowed: a mapping with name, data, teacher, student, ...")
    for key in data:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: key {key!r} is not text; put it in quotes")
    return data


def merged(base: Mapping[str, Any], over: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """`over` on top of `base`, both at `path`: mappings are merged, everything else is replaced.

    A plugin's section that names a different one replaces its base entirely: the old plugin's options mean nothing to the new one.
    """
    key = PLUGINS.get(path)
    if key is not None and key in base and key in over and base[key] != over[key]:
        return dict(over)
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        result[name] = merged(below, value, (*path, name)) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result
