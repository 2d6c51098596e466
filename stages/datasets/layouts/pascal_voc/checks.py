"""What only the complete data set shows: boxes in a different unit or order, class names that are almost the same."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from deploy.errors import DataError
from stages.datasets.layouts.entries.units import may_be_fractions
from stages.datasets.layouts.pascal_voc.boxes import Corners
from stages.datasets.layouts.pascal_voc.pages import Thing, VocPage
from stages.datasets.layouts.text import fold
from stages.notes import Kind, Notes

SWAPPED = Kind("box with its corners swapped", "repaired", "boxes")
PERCENT = Kind("box that may be in percent", "assumed", "boxes")
FRACTION = Kind("box below 2 px at an edge, perhaps a fraction", "assumed", "boxes")
ALIKE = Kind("classes whose names differ only in case, spaces or signs", "assumed", "classes")
SPELLED = Kind("class name spelled differently from data.names", "repaired", "boxes")

_LARGE, _MANY = 200, 10
"""Sides in px of images that are not filled by values up to 100, and the number of boxes that show it."""


def units(pages: Iterable[VocPage]) -> None:
    """Refuse boxes that are not corners in px.

    Raises:
        DataError: all are within 0 and 1, or they are corner, width and height: many have xmax below xmin, and all would fit.
    """
    rows = [(page, thing.corners) for page in pages for thing in page.things]
    if rows and all(0 <= value <= 1 for _, corners in rows for value in corners):
        raise DataError(f"{rows[0][0].path}: all boxes are within 0 and 1, so they are fractions; VOC's boxes are in px, export them so")
    wrong = [page for page, corners in rows if is_swapped(corners)]
    if wrong and len(wrong) * 2 >= len(rows) and all(_may_be_sides(page, corners) for page, corners in rows):
        raise DataError(
            f"{wrong[0].path}: xmax or ymax is below xmin or ymin in {len(wrong)} of {len(rows)} boxes; they may be width and height; "
            "VOC's boxes are the left, top, right and bottom edges, export them so"
        )


def percent(rows: Sequence[tuple[str, VocPage]], notes: Notes) -> None:
    """Note boxes that may be in percent of the image: many, none beyond 100, most with decimals, in images that are larger.

    Args:
        rows: each page with its split.
    """
    boxes = [thing.corners for _, page in rows for thing in page.things]
    broken = sum(any(not value.is_integer() for value in corners) for corners in boxes)
    small = any(min(page.width, page.height) < _LARGE for _, page in rows if page.things)
    if len(boxes) < _MANY or broken * 2 < len(boxes) or small or not all(0 <= value <= 100 for corners in boxes for value in corners):
        return
    for split, page in rows:
        if page.things:
            text = f"{page.path.name}: no value above 100 in {page.width} x {page.height} px; used as px"
            notes.add(PERCENT, split, text, count=len(page.things))


def fractions(rows: Sequence[tuple[str, VocPage]], notes: Notes) -> None:
    """Note boxes whose numbers of one axis may be fractions of the image, made with a size that is not its own.

    Args:
        rows: each page with its split.
    """
    for split, page in rows:
        for left, top, right, bottom in (thing.corners for thing in page.things):
            axes = (page.width, (left, right)), (page.height, (top, bottom))
            if any(may_be_fractions(numbers, side or None) for side, numbers in axes):
                notes.add(FRACTION, split, f"{page.path.name}: {left:g} {top:g} {right:g} {bottom:g}; used as px")


def is_swapped(corners: Corners) -> bool:
    """Whether left and right, or top and bottom, are in the wrong order."""
    return corners[2] < corners[0] or corners[3] < corners[1]


def in_order(corners: Corners) -> Corners:
    """The same box from its left top to its right bottom."""
    left, top, right, bottom = corners
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def class_names(rows: Sequence[tuple[str, VocPage]], notes: Notes) -> list[str]:
    """All names found, sorted; names that are almost the same are kept apart.

    Args:
        rows: each page with its split.

    Raises:
        DataError: no page has an object.
    """
    counts = Counter(thing.name for _, page in rows for thing in page.things)
    if not counts:
        raise DataError(f"{rows[0][1].path}: no object with a class, as in all {len(rows)} XML files; label some, or set data.names")
    alike: dict[str, list[str]] = {}
    for name in sorted(counts):
        alike.setdefault(_bare(name), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            split = next(split for split, page in rows for thing in page.things if thing.name == group[0])
            text = " and ".join(f"'{name}' ({counts[name]} boxes)" for name in group)
            notes.add(ALIKE, split, f"{text} are kept apart", count=len(group))
    return sorted(counts)


def number_of(path: Path, thing: Thing, ids: Mapping[str, int], notes: Notes, split: str) -> int:
    """The category id of an object's class.

    Raises:
        DataError: it is not among the names, nor like exactly one of them.
    """
    if thing.name in ids:
        return ids[thing.name]
    like = [name for name in ids if _bare(name) == _bare(thing.name)]
    if len(like) != 1:
        raise DataError(f"{path}: unknown class '{thing.name}'; data.names has {', '.join(ids)}")
    notes.add(SPELLED, split, f"{path.name}: '{thing.name}' is '{like[0]}'")
    return ids[like[0]]


def _may_be_sides(page: VocPage, corners: Corners) -> bool:
    """Whether the last two values could be width and height of a box inside the image."""
    x, y, w, h = corners
    return w > 0 and h > 0 and (not page.width or x + w <= page.width + 1) and (not page.height or y + h <= page.height + 1)


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", "", fold(name))
