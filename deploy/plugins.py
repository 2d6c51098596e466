"""A folder is a registry: each file is a plugin, and its file name is the plugin's name in pipeline.yaml.

A plugin function's keyword-only parameters are its options. They are read from the source without importing it, so a
configuration can be checked in milliseconds and on a machine without torch. Their meanings are read from the docstring. Options that
several plugins share are named types in a module `options` of a folder below, with their meaning in `Field(description=...)`.
"""

import ast
import difflib
import importlib
import importlib.util
import re
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
    """' (did you mean x?)', or an empty string if no known word is close; dashes before options are no likeness."""
    bare = {one.lstrip("-"): one for one in known}
    close = difflib.get_close_matches(word.lstrip("-"), list(bare), n=1)
    return f" (did you mean {bare[close[0]]}?)" if close else ""


@cache
def schema(package: str, name: str, function: str = "build") -> type[BaseModel]:
    """The plugin's options as a pydantic model: the keyword-only parameters of `function`.

    A field's description is its entry in the docstring's section Args, or that of its shared type.
    """
    path = source(package, name)
    definition, scope = _definition(path, function), _scope(package, path)
    meanings = _meanings(definition)
    fields: dict[str, Any] = {}
    for argument, default in zip(definition.args.kwonlyargs, definition.args.kw_defaults, strict=True):
        if argument.annotation is None:
            raise ValueError(f"{path}:{argument.lineno}: option {argument.arg} of {function} has no annotation")
        value = ... if default is None else _evaluate(path, default, scope)
        described: dict[str, Any] = {"description": meanings[argument.arg]} if argument.arg in meanings else {}
        fields[argument.arg] = (_evaluate(path, argument.annotation, scope), Field(value, **described))
    config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    return create_model(name, __config__=config, **fields)


def shared(package: str, name: str, function: str = "build") -> dict[str, str]:
    """The options of `function` that have type and meaning from a shared module, and that module, relative to the package."""
    path = source(package, name)
    definition = _definition(path, function)
    own = _meanings(definition)
    modules = {alias: module for module, aliases in _imports(package, path).items() for alias in aliases}
    types = {one.arg: one.annotation for one in definition.args.kwonlyargs if one.arg not in own}
    return {option: modules[kind.id] for option, kind in types.items() if isinstance(kind, ast.Name) and kind.id in modules}


def constant(package: str, name: str, title: str, default: Any = None) -> Any:
    """A constant of the plugin's file, read without importing it; the default if the file does not define it."""
    path = source(package, name)
    for node in ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        value = getattr(node, "value", None)
        if value is not None and any(isinstance(target, ast.Name) and target.id == title for target in targets):
            return _evaluate(path, value, _scope(package, path))
    return default


def options_of(package: str, name: str, role: OptionRole) -> tuple[str, ...]:
    """The plugin's options that have a role."""
    fields = schema(package, name).model_fields
    return tuple(option for option, field in fields.items() if any(_has(part, role) for part in (field.annotation, *field.metadata)))


def _has(annotation: Any, role: OptionRole) -> bool:
    return annotation is role or any(_has(part, role) for part in get_args(annotation))


def _definition(path: Path, function: str) -> ast.FunctionDef:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    found = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function), None)
    if found is None:
        raise ValueError(f"{path} defines no function {function}")
    return found


def _meanings(definition: ast.FunctionDef) -> dict[str, str]:
    """Parameters and what the docstring's section Args says of them, without the final period."""
    _, _, rest = (ast.get_docstring(definition) or "").partition("\nArgs:\n")
    section = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()).removesuffix(".") for name, text in entries}


def _imports(package: str, path: Path) -> dict[str, list[str]]:
    """Names that a plugin imports from modules `options` in folders of its package, by module, relative to the package."""
    found: dict[str, list[str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}.") and (node.module or "").endswith(".options"):
            found[(node.module or "").removeprefix(f"{package}.")] = [alias.name for alias in node.names]
    return found


def _scope(package: str, path: Path) -> dict[str, Any]:
    """What an option's type and default may name: a few builtins, and what the plugin imports from modules of shared options."""
    scope = dict(_SCOPE)
    for module, aliases in _imports(package, path).items():
        known = _constants(_inside(package, module))
        scope |= {alias: known[alias] for alias in aliases if alias in known}
    return scope


def _inside(package: str, module: str) -> Path:
    """A module's file. Not looked up by importlib, which would import the packages that contain it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, package
    places = [Path(place, *module.split(".")).with_suffix(".py") for place in spec.submodule_search_locations or ()]
    return next((place for place in places if place.is_file()), places[0])


@cache
def _constants(path: Path) -> Mapping[str, Any]:
    """The constants of a module of shared options, each computed from those above it."""
    found: dict[str, Any] = {}
    for node in ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _evaluate(path, node.value, {**_SCOPE, **found})
    return found


def _evaluate(path: Path, node: ast.expr, scope: Mapping[str, Any]) -> Any:
    try:
        return eval(compile(ast.Expression(node), str(path), "eval"), dict(scope))  # noqa: S307 - the project's own source
    except NameError as error:
        allowed = ", ".join(sorted(scope))
        problem = f"an option's type and default may use only {allowed}, and constants of a module options in a folder below ({error})"
        raise ValueError(f"{path}:{node.lineno}: {problem}") from error


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
            raise ValueError(f"{value[key]} has no option '{option}'{suggest(str(option), known)}; available: {', '.join(known) or 'none'}")
    try:
        filled = model.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{value[key]}: {'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from error
    return {key: value[key], **{k: v for k, v in value.items() if k in own}, **filled.model_dump()}
