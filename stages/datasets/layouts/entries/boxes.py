"""An annotation's box and mask, from any way of writing them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from deploy.prediction import masks

Box = tuple[float, float, float, float]

_SIZED = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
_LARGEST_FRACTION = 1.5
MOST_PIXELS = 200_000_000
"""A mask larger than this is not decoded for its box."""


class Written(NamedTuple):
    """What was written as a box: four numbers, None if nothing was, or the value itself if it means nothing.

    `mended`: it was not a plain list of numbers. `fixed`: its keys say what each number is.
    """

    value: Any
    mended: bool = False
    fixed: bool = False


def numeric(value: Any) -> float | None:
    """A finite number, also if it is written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_box(value: Any) -> Written:
    """A list of numbers, of texts, a list in a list, a text of four numbers, or a dictionary with the usual keys."""
    if value is None or (isinstance(value, list | str | dict) and not value):
        return Written(None)
    if isinstance(value, Mapping):
        return _by_keys(value)
    if isinstance(value, str):
        words = re.split(r"[\s,;]+", value.strip(" \t\r\n[](){}"))
        return _four(words, value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        return _four(value[0], value)
    plain = isinstance(value, list) and all(isinstance(one, int | float) for one in value)
    return Written(value) if plain else _four(value, value)


def usable(value: Any) -> Box | None:
    """Four finite numbers, None for anything else; width and height may have any sign."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [None if isinstance(one, str) else numeric(one) for one in value]
    x, y, w, h = numbers
    return None if x is None or y is None or w is None or h is None else (x, y, w, h)


def read_mask(value: Any) -> tuple[Any, bool]:
    """Polygons as flat lists of numbers, a run-length code and what cannot be read as they are; and whether anything was rewritten."""
    if not isinstance(value, list) or not value:
        return value, False
    if all(isinstance(one, list) and {*map(type, one)} <= {int, float} for one in value) and not _is_points(value):
        return value, False  # not a copy, which would take half as much memory again
    nested = all(isinstance(one, list) for one in value) and not _is_points(value)
    entire = None if nested else _flat(value)
    if entire is not None:
        return [entire], True
    flat = [_flat(part) if isinstance(part, list) else None for part in value]
    parts = [part if numbers is None else numbers for part, numbers in zip(value, flat, strict=True)]
    return parts, parts != value


def extent(mask: Any) -> Box | None:
    """The box around a mask, None if there is none or it is unusable."""
    if isinstance(mask, Mapping):
        return _code_extent(mask)
    polygons = [one for one in mask if is_polygon(one)] if isinstance(mask, list) else []
    if not polygons:
        return None
    across = [value for polygon in polygons for value in polygon[::2]]
    down = [value for polygon in polygons for value in polygon[1::2]]
    left, top = min(across), min(down)
    width, height = max(across) - left, max(down) - top
    return (left, top, width, height) if width > 0 and height > 0 else None


def turned(box: Box, degrees: float) -> Box:
    """The upright box around a box that is rotated about its center."""
    x, y, w, h = box
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    width, height = w * cos + h * sin, w * sin + h * cos
    return x + (w - width) / 2, y + (h - height) / 2, width, height


def _four(values: Any, original: Any) -> Written:
    numbers = [numeric(one) for one in values] if isinstance(values, list | tuple) else []
    complete = len(numbers) == 4 and None not in numbers
    return Written(numbers, mended=True) if complete else Written(original)


def _by_keys(value: Mapping[str, Any]) -> Written:
    lower = {str(name).lower().replace("_", ""): number for name, number in value.items()}
    for names in (*_SIZED, *_CORNERS):
        if all(name in lower for name in names):
            a, b, c, d = (numeric(lower[name]) for name in names)
            if a is None or b is None or c is None or d is None:
                return Written(dict(value))
            return Written([a, b, c - a, d - b] if names in _CORNERS else [a, b, c, d], mended=True, fixed=True)
    return Written(dict(value))


def _is_points(value: Sequence[Any]) -> bool:
    """Whether a list is one polygon as pairs of coordinates."""
    return len(value) >= 3 and all(isinstance(one, list) and len(one) == 2 and None not in map(numeric, one) for one in value)


def _flat(polygon: Sequence[Any]) -> list[float] | None:
    values: list[Any] = []
    for one in polygon:
        if isinstance(one, Mapping) and {"x", "y"} <= set(one):
            values += [one["x"], one["y"]]
        elif isinstance(one, list) and len(one) == 2:
            values += one
        else:
            values.append(one)
    numbers = [value if isinstance(value, int | float) and not isinstance(value, bool) else numeric(value) for value in values]
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(values) else None


def is_polygon(value: Any) -> bool:
    """Whether this is a polygon as `read_mask` returns it: x and y of at least three corners."""
    is_list = isinstance(value, list) and len(value) >= 6 and len(value) % 2 == 0
    return is_list and {*map(type, value)} <= {int, float} and all(map(math.isfinite, value))


def are_fractions(mask: Any) -> TypeGuard[list[Any]]:
    """Whether a mask's polygons can only be in fractions of the image; those of other sizes, and run-length codes, are in px."""
    polygons = [one for one in mask if is_polygon(one)] if isinstance(mask, list) else []
    return max((abs(one) for polygon in polygons for one in polygon), default=9) <= _LARGEST_FRACTION


def _code_extent(code: Mapping[str, Any]) -> Box | None:
    size = code.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        return None
    if size[0] * size[1] > MOST_PIXELS:
        return None
    try:
        mask = masks.decode(code, (size[0], size[1]))
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError):  # a code from elsewhere may contain anything
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)
