"""The configuration that MMDetection keeps in its files as Python source, read as data: nothing of it runs."""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_UNKNOWN = object()
"""In place of expressions that are not plain values."""


@dataclass(frozen=True)
class ZooSetting:
    """What a network is built for.

    path: below `model`, with dots. allowed: the values that fit. absent: the value that MMDetection uses without the setting; None: any.
    remedy: what makes another value fit.
    """

    path: str
    allowed: tuple[Any, ...]
    absent: Any = None
    remedy: str = "use weights that were trained so"


def model_of(text: str) -> Mapping[str, Any]:
    """The dictionary `model` of a configuration, empty if the text has none; with version 2's `img_norm_cfg` where version 3 has pixels."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    named = [(target.id, node.value) for node in assigned for target in node.targets if isinstance(target, ast.Name)]
    # the text may be that of several files: those that a configuration is based on, then its own
    models, all_pixels = ([_value(value) for name, value in named if name == wanted] for wanted in ("model", "img_norm_cfg"))
    model, pixels = models[0] if models else None, all_pixels[-1] if all_pixels else None
    if not isinstance(model, dict):
        return {}
    if not isinstance(pixels, dict) or "data_preprocessor" in model:
        return model
    renamed = {"to_rgb": "bgr_to_rgb"}
    return {**model, "data_preprocessor": {renamed.get(key, key): value for key, value in pixels.items()}}


def misfit(model: Mapping[str, Any], setting: ZooSetting) -> Any:
    """The value that does not fit; None if it does, or the configuration does not say."""
    given = at(model, setting.path, setting.absent)
    if given is None or given is _UNKNOWN or any(_equal(given, one) for one in setting.allowed):
        return None
    return given


def at(model: Mapping[str, Any], path: str, absent: Any = None) -> Any:
    """The value at a path, in which a number is an index into a list; `absent` if there is none."""
    place: Any = model
    for key in path.split("."):
        if isinstance(place, dict) and key in place:
            place = place[key]
        elif isinstance(place, list) and key.isdigit() and int(key) < len(place):
            place = place[int(key)]
        else:
            return absent
    return place


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_equal(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, bool) or isinstance(other, bool) or not isinstance(one, int | float) or not isinstance(other, int | float):
        return bool(one == other)
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def _value(node: ast.expr) -> Any:
    """A node's value, with tuples as lists."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords if word.arg is not None}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _value(value) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.List | ast.Tuple):
        return _values(node.elts)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return _UNKNOWN


def _values(nodes: Sequence[ast.expr]) -> list[Any]:
    return [_value(node) for node in nodes]
