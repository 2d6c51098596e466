"""A folder is a registry: each file is a plugin, and its file name is the plugin's name in pipeline.yaml.

A plugin function's keyword-only parameters are its options. They are read from the source without importing it, so a
configuration can be checked in milliseconds and on a machine without torch.
"""

import ast
import difflib
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model


class OptionRole(Enum):
    """What an option means to code that knows no single plugin; part of the option's annotation, `Annotated[str, OptionRole.WEIGHTS]`.

    WEIGHTS: the name of pretrained weights, or a file or folder of them; a training depends on the content, too.
    STRIDES: the strides of the detector's pyramid.
    """

    WEIGHTS = "weights"
    STRIDES = "strides"


_SCOPE = {
    "Annotated": Annotated,
    "Field": Field,
    "Literal": Literal,
    "Mapping": Mapping,
    "OptionRole": OptionRole,
    **{kind.__name__: kind for kind in (bool, dict, float, int, list, str, tuple)},
}


def folder(package: str) -> Path:
    """The folder of the package's plugin files."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, package
    assert spec.submodule_search_locations, package
    return Path(next(iter(spec.submodule_search_locations)))


def names(package: str) -> list[str]:
    """The plugins of a package, sorted."""
    return sorted(path.stem for path in folder(package).glob("*.py") if not path.stem.startswith("_"))


def source(package: str, name: str) -> Path:
    """A plugin's file.

    Raises:
        ValueError: unknown plugin; the message lists the known ones.
    """
    known = names(package)
    if name not in known:
        raise ValueError(f"no '{name}' in {package}{suggest(name, known)}; choose from {', '.join(known)}")
    return folder(package) / f"{name}.py"


def load(package: str, name: str) -> ModuleType:
    """Import a plugin.

    Raises:
        ValueError: unknown plugin.
    """
    source(package, name)
    return importlib.import_module(f"{package}.{name}")


def suggest(word: str, known: Iterable[str]) -> str:
    """' (did you mean x?)', or an empty string if no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


@cache
def schema(package: str, name: str, function: str = "build") -> type[BaseModel]:
    """The plugin's options as a pydantic model: the keyword-only parameters of `function`."""
    path = source(package, name)
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    definition = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function), None)
    if definition is None:
        raise ValueError(f"{path} defines no function {function}")
    fields: dict[str, Any] = {}
    for argument, default in zip(definition.args.kwonlyargs, definition.args.kw_defaults, strict=True):
        if argument.annotation is None:
            raise ValueError(f"{path}:{argument.lineno}: option {argument.arg} of {function} has no annotation")
        fields[argument.arg] = (_evaluate(path, argument.annotation), ... if default is None else _evaluate(path, default))
    config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    return create_model(name, __config__=config, **fields)


def options_of(package: str, name: str, role: OptionRole) -> tuple[str, ...]:
    """The plugin's options that have a role."""
    fields = schema(package, name).model_fields
    return tuple(option for option, field in fields.items() if any(_has(part, role) for part in (field.annotation, *field.metadata)))


def _has(annotation: Any, role: OptionRole) -> bool:
    return annotation is role or any(_has(part, role) for part in get_args(annotation))


def _evaluate(path: Path, node: ast.expr) -> Any:
    try:
        return eval(compile(ast.Expression(node), str(path), "eval"), dict(_SCOPE))  # noqa: S307 - the project's own source
    except NameError as error:
        allowed = ", ".join(sorted(_SCOPE))
        raise ValueError(f"{path}:{node.lineno}: an option's type and default may use only {allowed} ({error})") from error


def fill(package: str, value: Any, *, own: tuple[str, ...] = (), key: str = "name", function: str = "build") -> dict[str, Any]:
    """Check a YAML mapping `{key: plugin, option: ...}` and return it with the plugin's defaults filled in.

    Args:
        own: keys that belong to the caller, `key` among them or not; passed through.

    Raises:
        ValueError: not a mapping, unknown plugin, unknown option (with a suggestion) or wrong type.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if not isinstance(value, Mapping) or not isinstance(value.get(key), str):
        raise ValueError(f"expected a mapping with '{key}', one of {', '.join(names(package))}; got {value!r}")  # noqa: TRY004 - pydantic
    options = {k: v for k, v in value.items() if k != key and k not in own}
    model = schema(package, value[key], function)
    known = [*model.model_fields, *(name for name in own if name != key)]
    for option in options:
        if option not in model.model_fields:
            raise ValueError(f"{value[key]} has no option '{option}'{suggest(option, known)}; available: {', '.join(known) or 'none'}")
    try:
        filled = model.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{value[key]}: {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from error
    return {key: value[key], **{k: v for k, v in value.items() if k in own}, **filled.model_dump()}
