"""The inputs whose hash names an artifact, and what changed in them since the last run."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from deploy import plugins
from pipeline.config import PLUGIN_SECTIONS
from stages.artifacts import Artifact
from stages.config import (
    DataConfig,
    DetectorConfig,
    DistillConfig,
    ExportConfig,
    FinetuneConfig,
    LatencyConfig,
    PackageConfig,
    RobustnessConfig,
    StudentConfig,
    TargetConfig,
    TeacherConfig,
    UnlabelledConfig,
    ValidationConfig,
)
from stages.stage import StageInfo

Parts = dict[str, Any]

SECTIONS: Mapping[type[BaseModel], str] = {
    DataConfig: "data",
    TeacherConfig: "teacher",
    StudentConfig: "student",
    DistillConfig: "distill",
    ExportConfig: "export",
    TargetConfig: "target",
    ValidationConfig: "validation",
    LatencyConfig: "latency",
    PackageConfig: "package",
    RobustnessConfig: "robustness",
    DetectorConfig: "detector",
    UnlabelledConfig: "distill.unlabelled",
    FinetuneConfig: "int8",
}
"""What configurations are called in keys and in reasons, as in pipeline.yaml. A different name here runs every stage again."""


def info(stage: Callable[..., Any]) -> StageInfo:
    """The information that `@stage` attached to the function."""
    found = stage.__dict__["stage_info"]
    assert isinstance(found, StageInfo)
    return found


def name(stage: Callable[..., Any]) -> str:
    """The name of a stage in folders, --until, --force and summary.json."""
    return stage.__name__


def parts_of(stage: Callable[..., Any], *args: Any, **kwargs: Any) -> Parts:
    """Everything that the stage's result depends on, as plain values; input artifacts by their folder names, which end in a hash."""
    bound = inspect.signature(stage).bind(None, *args, **kwargs)
    bound.apply_defaults()
    given = list(bound.arguments.items())[1:]
    marked = info(stage)
    config: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    for parameter, value in given:
        if artifacts := _artifacts(parameter, value):
            inputs |= {name: one.root.name for name, one in artifacts.items()}
        else:
            config[_section(parameter, value)] = _plain(value)
    assert len(config) + len({name.partition(".")[0] for name in inputs}) == len(given), (
        f"two arguments of {name(stage)} have the same name"
    )
    return {
        "stage": name(stage),
        "version": marked.version,
        "config": config,
        "plugins": dict(sorted(_plugin_digests([value for _, value in given]))),
        "identity": _plain(dict(marked.identity(*args, **kwargs))) if marked.identity else {},
        "inputs": inputs,
    }


def inputs_of(stage: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Artifact]:
    """The stage's input artifacts, under the names that they have in `parts_of`."""
    given = inspect.signature(stage).bind(None, *args, **kwargs).arguments
    return {name: one for parameter, value in given.items() for name, one in _artifacts(parameter, value).items()}


def are_parts(value: Any) -> bool:
    """Whether a value read from a file has the form that `parts_of` returns."""
    groups = ("config", "plugins", "identity", "inputs")
    return isinstance(value, dict) and "version" in value and all(isinstance(value.get(group), dict) for group in groups)


def key_of(parts: Parts) -> str:
    """The artifact's folder name."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{parts['stage']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def lock_of(path: Path) -> Path:
    """The lock of an artifact's folder."""
    return path.with_name(f".{path.name}.lock")


def scratch_of(path: Path) -> Path:
    """Where an artifact is made before it is complete."""
    return path.with_name(f".{path.name}.partial")


def difference(before: Parts, now: Parts) -> str | None:
    """The first change found, in the order that matters most to the user; None if nothing changed."""
    if before["version"] != now["version"]:
        return f"stage code version {before['version']} -> {now['version']}"
    moved = {*before["inputs"], *now["inputs"]}  # an input that may be left out is null among the values
    for group in ("config", "identity"):
        old, new = dict(flat(before[group])), dict(flat(now[group]))
        for path in [*new, *(path for path in old if path not in new)]:
            if path not in moved and old.get(path, "(none)") != new.get(path, "(none)"):
                return f"{path} {old.get(path, '(none)')} -> {new.get(path, '(none)')}"
    for group, change in (("plugins", "{} changed"), ("inputs", "input {} changed")):
        for path in {**now[group], **before[group]}:
            if before[group].get(path) != now[group].get(path):
                return change.format(path)
    return None


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested mappings and lists, as pairs of dotted path and text."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _artifacts(parameter: str, value: Any) -> dict[str, Artifact]:
    """The artifacts that an argument is made of; empty if it is something else."""
    if isinstance(value, Artifact):
        return {parameter: value}
    if isinstance(value, Mapping) and value and all(isinstance(one, Artifact) for one in value.values()):
        return {f"{parameter}.{key}": one for key, one in value.items()}
    return {}


def _section(parameter: str, value: Any) -> str:
    """What the user calls an argument: the section of pipeline.yaml for a configuration."""
    return SECTIONS.get(type(value), parameter)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    assert value is None or isinstance(value, str | int | float | bool), f"{value!r} cannot be part of a key"
    return value


def _plugin_digests(value: Any) -> Iterator[tuple[str, str]]:
    if section := PLUGIN_SECTIONS.get(type(value)):
        named = getattr(value, section.key)
        for plugin in plugins.names(section.package) if named == section.any_of_them else [named]:
            yield f"{section.package.replace('.', '/')}/{plugin}.py", _digest(section.package, plugin)
    if isinstance(value, BaseModel):
        yield from _plugin_digests([getattr(value, field) for field in type(value).model_fields])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _plugin_digests(inner)


@cache
def _digest(package: str, plugin: str) -> str:
    return hashlib.sha256(plugins.source(package, plugin).read_bytes()).hexdigest()
