"""`--set a.b=value` on plain values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from deploy.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """One `--set`: the path's keys, the typed value, and the text as given."""

    path: tuple[str, ...]
    value: Any
    text: str

    @classmethod
    def parse(cls, text: str, parse_value: Callable[[str, str], Any]) -> Self:
        """Read "a.b=value"; `parse_value(text, label)` gives the value its type.

        Raises:
            ConfigError: "=" is missing, a key is empty, or the value is not YAML.
        """
        path, sign, value = text.partition("=")
        keys = tuple(path.strip().split("."))
        if not sign or not all(keys):
            raise ConfigError(f"--set {text}: pass a path and a value, such as gates.0.min=0.5")
        return cls(keys, parse_value(value, f"--set {text}"), text)


def apply(data: dict[str, Any], setting: Setting) -> None:
    """Put a setting into `data`, creating mappings on the way; the schema decides later whether the key exists.

    Raises:
        ConfigError: the path leads through a plain value or to a list entry that does not exist.
    """
    current: Any = data
    for depth, key in enumerate(setting.path):
        last = depth == len(setting.path) - 1
        place = ".".join(setting.path[:depth])
        if isinstance(current, list):
            slot: str | int = _index(current, key, place, setting)
        elif isinstance(current, dict):
            slot = key
        else:
            raise ConfigError(f"--set {setting.text}: {place} is {current!r}, which has no '{key}'")
        if last:
            current[slot] = setting.value
        elif isinstance(current, dict) and current.get(key) is None:
            if setting.path[depth + 1].isdecimal():
                raise ConfigError(f"--set {setting.text}: {'.'.join(setting.path[: depth + 1])} has no entries")
            current[key] = current = {}
        else:
            current = current[slot]


def _index(entries: list[Any], key: str, place: str, setting: Setting) -> int:
    if not key.isdecimal() or int(key) >= len(entries):
        allowed = f"0 to {len(entries) - 1}" if entries else "none, the list is empty"
        raise ConfigError(f"--set {setting.text}: {place} is a list, got index '{key}', allowed: {allowed}")
    return int(key)
