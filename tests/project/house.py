"""The rules of the house that no linter knows; `make check` prints each broken one as a line and ends with 1.

Usage: python tests/project/house.py [--sizes]      (--sizes also prints how full each folder is)
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]
PACKAGES = ("edgedistill", "pipeline", "stages", "deploy")
OUTSIDE = ("benchmarks", "docs", "examples", "tests")
"""Held to the rules of names, too."""

REGISTRIES = ("stages/datasets", "stages/detectors", "stages/losses", "deploy/runtimes")
"""Their front row are plugins; what plugins share stands in folders below."""

MOST_SIDE_BY_SIDE = 16
"""Modules and folders of a folder."""

UNCOUNTED = (*REGISTRIES, "pipeline/commands", "deploy/serving")
"""Folders whose modules are one kind of thing, as many as there are; their sub-folders count."""

N = TypeVar("N", bound=ast.AST)

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 299, 50


def main(arguments: Sequence[str]) -> int:
    """Print what breaks a rule; 1 where something does."""
    broken = [*crowded(), *long_modules(), *long_functions(), *names_twice(), *renamed(), *back_into_registries()]
    if "--sizes" in arguments:
        for folder in folders():
            _say(f"{counted(folder):3} {_name(folder)}")
    for line in broken:
        _say(line)
    _say(f"house: {len(broken)} broken rules in {len(modules())} modules of {len(folders())} folders")
    return 1 if broken else 0


def modules() -> list[Path]:
    """Every module of the packages."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def sources() -> list[Path]:
    """Every Python file of the project."""
    return [*modules(), *sorted(path for folder in OUTSIDE for path in (ROOT / folder).rglob("*.py"))]


def folders() -> list[Path]:
    """Every folder that holds modules."""
    return sorted({path.parent for path in modules()})


def counted(folder: Path) -> int:
    """Modules and folders side by side, less those that are one kind of thing: plugins, stages, commands, the server."""
    below = [path for path in folder.iterdir() if path.is_dir() and any(path.rglob("*.py"))]
    own = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    if _name(folder) in UNCOUNTED:
        own = []
    if _name(folder) == "stages":
        own = [path for path in own if not _defines_a_stage(path)]
    return len(below) + len(own)


def crowded() -> Iterator[str]:
    """Folders with too much side by side."""
    for folder in folders():
        if (count := counted(folder)) > MOST_SIDE_BY_SIDE:
            yield f"{_name(folder)}: {count} modules and folders side by side, allowed: {MOST_SIDE_BY_SIDE}; group some in a folder"


def long_modules() -> Iterator[str]:
    """Modules that are too long."""
    for path in modules():
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES:
            yield f"{_name(path)}: {count} lines, allowed: {MOST_LINES}; split it"


def long_functions() -> Iterator[str]:
    """Functions that are too long, decorators and docstring included."""
    found: list[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]] = [*_nodes(ast.FunctionDef), *_nodes(ast.AsyncFunctionDef)]
    for path, node in found:
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if (count := (node.end_lineno or first) - first + 1) > MOST_LINES_OF_A_FUNCTION:
            yield f"{_name(path)}:{first}: {node.name} has {count} lines, allowed: {MOST_LINES_OF_A_FUNCTION}; split it"


def names_twice() -> Iterator[str]:
    """Classes of one name; one name means one thing in the whole project."""
    places = defaultdict(list)
    for path, node in _nodes(ast.ClassDef, sources()):
        if not node.name.startswith(("_", "Test")):
            places[node.name].append(f"{_name(path)}:{node.lineno}")
    for name, found in sorted(places.items()):
        if len(found) > 1:
            yield f"class {name} stands {len(found)} times: {', '.join(found)}; rename all but one"


def renamed() -> Iterator[str]:
    """Imports that give one of our own things another name."""
    found: list[tuple[Path, ast.ImportFrom | ast.Import]] = [*_nodes(ast.ImportFrom, sources()), *_nodes(ast.Import, sources())]
    for path, node in found:
        module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names:
            ours = (module or alias.name).split(".")[0] in PACKAGES
            if ours and alias.asname not in (None, alias.name):
                yield f"{_name(path)}:{node.lineno}: {alias.name} is imported as {alias.asname}; rename it where it is defined"


def back_into_registries() -> Iterator[str]:
    """Plugins that import one another, and parts of plugins that import a plugin."""
    plugins = {path for registry in REGISTRIES for path in (ROOT / registry).glob("*.py") if path.name != "__init__.py"}
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in plugins}
    inside = {path for registry in REGISTRIES for path in (ROOT / registry).rglob("*.py")}
    for path, node in _nodes(ast.ImportFrom):
        for name in {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)} & set(names):
            if path in inside and names[name].parent in path.parents:
                yield f"{_name(path)}:{node.lineno}: imports the plugin {name}; move what both need into a folder below"


def _nodes(kind: type[N], paths: Iterable[Path] | None = None) -> Iterator[tuple[Path, N]]:
    for path in modules() if paths is None else paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield path, node


def _defines_a_stage(path: Path) -> bool:
    """Whether a function of the module is decorated with `@stage`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    decorators = [d for node in tree.body if isinstance(node, ast.FunctionDef) for d in node.decorator_list]
    called = [decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in decorators]
    return any(isinstance(name, ast.Name) and name.id == "stage" for name in called)


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
