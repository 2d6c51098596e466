"""What the four numbers of a box mean: COCO's x, y, width, height in px, or what some scripts write instead.

Nothing in a file says so. Each reading is counted against what the file itself has: the images' sizes, the areas and the masks. If
another reading fits and COCO's does not, the file is refused with the option that reads it; single boxes that fit COCO's reading
badly are noted.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

from deploy.errors import DataError
from stages.datasets.cleaning.images import size
from stages.datasets.layouts.entries.boxes import Box, are_fractions, extent, is_polygon, numeric, usable
from stages.datasets.layouts.entries.objects import FIXED, PX
from stages.datasets.tables.rows import Row, Rows
from stages.notes import MAX_EXAMPLES, Kind, Notes

Boxes = Literal["xywh", "xyxy", "cxcywh", "fractions", "xyxy_fractions", "cxcywh_fractions"]
"""x and y of the upper left corner, width, height; both corners; center, width, height: in px, or as fractions of the image's sides."""

BEYOND = Kind("box that would fit its image as corners or center, read as x, y, width, height in px", "assumed", "boxes")
TINY = Kind("box below 2 px at an edge, perhaps a fraction, read as x, y, width, height in px", "assumed", "boxes")
UNLIKE_AREA = Kind("box with the area of its corners, read as x, y, width, height in px", "assumed", "boxes")
UNLIKE_MASK = Kind("box unlike its mask, read as x, y, width, height in px", "assumed", "boxes")

MARGIN_PX = 1.0
OVERWHELMING, DOUBTFUL = 0.95, 0.2
"""Share of boxes that must fit another reading, and that must not fit COCO's, for a refusal."""
MIN_BEYOND = 3
_LARGEST_FRACTION = 2.0
"""Fractions exceed 1 if they were made with a size that is not the image's: a smaller one, or with width and height exchanged."""
_MOST_OF_BOX = 1.05
"""An area is that of a box or of a mask in it, but for rounding."""
_MIN_SIDE = 4
"""In images up to this size in px, a box below 2 px may be a box."""


@dataclass(frozen=True)
class _Evidence:
    """A box as written, in an image of (width, height) px, with its stated area and the box around its polygons, None if unknown."""

    row: Mapping[str, Any]
    box: Box
    size: tuple[int, int] | None
    area: float | None
    around: Box | None


def _corners(box: Box) -> Box:
    x, y, x2, y2 = box
    return x, y, x2 - x, y2 - y


def _center(box: Box) -> Box:
    x, y, w, h = box
    return x - w / 2, y - h / 2, w, h


_FORMS: dict[str, Callable[[Box], Box]] = {"xywh": lambda box: box, "xyxy": _corners, "cxcywh": _center}
_OTHERS = {"xyxy": "x1, y1, x2, y2", "cxcywh": "center x, center y, width, height"}
_FRACTIONS = {"xywh": "fractions", "xyxy": "xyxy_fractions", "cxcywh": "cxcywh_fractions"}


def converted(rows: Rows, images: Sequence[Mapping[str, Any]], folder: Path, boxes: Boxes | None) -> Rows:
    """The rows with every box, and every polygon and area in fractions, in px, and without the mark of boxes that are known to be so."""
    fractions = boxes is not None and boxes.endswith("fractions")
    form = "xywh" if boxes in (None, "fractions") else str(boxes).removesuffix("_fractions")
    sizes = _sizes(images, folder) if fractions else None
    return rows.changed(_unmarked if boxes in (None, "xywh") else partial(_in_px, form=form, sizes=sizes))


def _unmarked(row: Row) -> Row:
    del row[FIXED]
    return row


def _in_px(row: Row, form: str, sizes: Mapping[int, tuple[int, int]] | None) -> Row:
    box, fixed = usable(row["bbox"]), row.pop(FIXED)
    if box is None:
        return row
    known = None if sizes is None else sizes.get(row["image_id"])
    box = box if fixed else _FORMS[form](box)
    if known:
        box = box if fixed == PX else _scaled(box, known)
        _scale_area(row, box, known)
        mask = row.get("segmentation")
        if are_fractions(mask):
            row["segmentation"] = [_polygon(one, known) if is_polygon(one) else one for one in mask]
    row["bbox"] = list(box)
    return row


def _scale_area(row: Row, box: Box, sides: tuple[int, int]) -> None:
    """Make an area px: one that is no larger than the box (in px) as a fraction of its image is such a fraction, too.

    One that is neither that nor an area in px, but rounded, is dropped; the box's is used in its place.
    """
    area, px, of_box = row.get("area"), sides[0] * sides[1], box[2] * box[3]
    if isinstance(area, int | float) and 0 < area * px <= _MOST_OF_BOX * of_box:
        row["area"] = area * px
    elif isinstance(area, int | float) and 0 < area <= 1 < of_box:
        del row["area"]


def _polygon(numbers: Sequence[float], sides: tuple[int, int]) -> list[float]:
    return [one * sides[index % 2] for index, one in enumerate(numbers)]


def judge(path: Path, rows: Rows, images: Sequence[Mapping[str, Any]], folder: Path, notes: Notes, split: str) -> None:
    """Check that the boxes are x, y, width, height in px, as far as the file lets one see.

    Raises:
        DataError: they are most likely something else; the message names the option.
    """
    sizes, paths = _sizes(images, folder), {row["id"]: folder / row["file_name"] for row in images}
    found = cache(lambda number: size(paths[number]))
    tally = _Tally()
    for row in rows:
        if (box := usable(row["bbox"])) is not None and min(box[2:]) > 0:
            tally.add(_evidence(row, box, sizes, found), path)
    if tally.num_boxes and tally.num_below_1 >= OVERWHELMING * tally.num_boxes:
        text = f"{tally.num_below_1} of {tally.num_boxes} boxes have no number above 1, as if they were fractions of the image"
        raise DataError(f"{path}: {text}; set data.boxes: {tally.best_of_fractions} to read them so, or data.boxes: xywh if they are px")
    for form, words in _OTHERS.items():
        why = tally.contradiction(form)
        if why is not None:
            text = f"{why} as x, y, width, height but fit as {words}"
            raise DataError(f"{path}: {text}; set data.boxes: {form} to read them so, or data.boxes: xywh to keep them")
    for kind, odd in tally.odd.items():
        for number, example in enumerate(odd.examples, start=1):
            others = odd.count - number if number == len(odd.examples) else 0
            notes.add(kind, split, example, count=1 + others)


@dataclass
class _Odd:
    """The number of boxes of a kind, and the first few in words."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


class _Tally:
    """What all boxes of a file say about their reading, counted one by one.

    known, bad, good: by check and reading, the boxes that can be checked, that COCO's reading does not fit, and that the other one fits.
    """

    def __init__(self) -> None:
        self.num_boxes = self.num_below_1 = 0
        self.odd = {kind: _Odd() for kind in (TINY, BEYOND, UNLIKE_AREA, UNLIKE_MASK)}
        self._known, self._bad, self._good = Counter[int](), Counter[int](), Counter[tuple[int, str]]()
        self._fractions = dict.fromkeys(_FRACTIONS.values(), 0)

    def add(self, one: _Evidence, path: Path) -> None:
        """Count a box."""
        self.num_boxes += 1
        if max(map(abs, one.box)) <= 1 and one.size is not None and min(one.size) > _MIN_SIDE:
            self.num_below_1 += 1
            for form, name in _FRACTIONS.items():
                self._fractions[name] += _is_fraction(_FORMS[form](one.box))
        if _may_be_fraction(one):
            self._note(TINY, one, path)
        if one.row.get(FIXED):
            return
        for number, (_, check, _) in enumerate(_CHECKS):
            fits = check(one, "xywh")
            if fits is not None:
                self._known[number] += 1
                self._bad[number] += not fits
            for form in _OTHERS:
                self._good[number, form] += fits is not None and bool(check(one, form))
        for kind, is_odd in ((BEYOND, _fits_only_another), (UNLIKE_AREA, _is_like_corners), (UNLIKE_MASK, _is_unlike_mask)):
            if is_odd(one):
                self._note(kind, one, path)

    def _note(self, kind: Kind, one: _Evidence, path: Path) -> None:
        odd = self.odd[kind]
        odd.count += 1
        if len(odd.examples) < MAX_EXAMPLES:
            odd.examples.append(f"annotation {one.row['id']} in {path.name}, bbox {[round(value, 3) for value in one.box]}")

    @property
    def best_of_fractions(self) -> str:
        """The reading of fractions that most tiny boxes fit; corner and size if several fit as many."""
        return max(self._fractions, key=lambda name: self._fractions[name])

    def contradiction(self, form: str) -> str | None:
        """In words, how many boxes contradict COCO's reading, if nearly all fit the other one."""
        for number, (words, check, least) in enumerate(_CHECKS):
            known, bad, good = self._known[number], self._bad[number], self._good[number, form]
            share = DOUBTFUL if check is _inside else 0.5
            if known and bad >= max(least, share * known) and good >= OVERWHELMING * known:
                return f"{bad} of {known} boxes {words}"
        return None


def _sizes(images: Sequence[Mapping[str, Any]], folder: Path) -> dict[int, tuple[int, int]]:
    """Width and height in px of each image as annotated, otherwise its file's; images without either are left out."""
    found = {row["id"]: (row["width"], row["height"]) if "width" in row else size(folder / row["file_name"]) for row in images}
    return {number: sides for number, sides in found.items() if sides is not None}


def _evidence(row: Row, box: Box, stated: Mapping[int, tuple[int, int]], found: Callable[[int], tuple[int, int] | None]) -> _Evidence:
    """What is known of a box; a stated size that it leaves, but not its image's file, is wrong."""
    area, mask = numeric(row.get("area")), row.get("segmentation")
    around = extent(mask) if isinstance(mask, list) else None
    one = _Evidence(row, box, stated.get(row["image_id"]), area if area and area > 0 else None, around)
    if _inside(one, "xywh") or (own := found(row["image_id"])) is None:
        return one
    other = replace(one, size=own)
    return other if _inside(other, "xywh") else one


def _fits_mask(one: _Evidence, form: str) -> bool | None:
    """Whether the box is the one around its polygons, to 2 px or a twentieth of their size."""
    if one.around is None:
        return None
    x, y, w, h = _FORMS[form](one.box)
    left, top, width, height = one.around
    across, down = max(2.0, 0.05 * width), max(2.0, 0.05 * height)
    same_x = abs(x - left) <= across and abs(x + w - left - width) <= across
    return same_x and abs(y - top) <= down and abs(y + h - top - height) <= down


def _has_area(one: _Evidence, form: str) -> bool | None:
    """Whether width times height is the stated area, to 1 %; unknown if the area may be a mask's."""
    if one.area is None or one.around is not None:
        return None
    _, _, w, h = _FORMS[form](one.box)
    return w > 0 and h > 0 and abs(w * h - one.area) <= 0.01 * one.area


def _inside(one: _Evidence, form: str) -> bool | None:
    """Whether the box has an area and stays within the image, to 1 px."""
    if one.size is None:
        return True if form == "xywh" else None
    x, y, w, h = _FORMS[form](one.box)
    over = max(-x, -y, x + w - one.size[0], y + h - one.size[1])
    return over <= MARGIN_PX and w > 0 and h > 0


def _fits_only_another(one: _Evidence) -> bool:
    """Whether the box leaves the image unless its numbers are read differently; one that leaves it in any reading is only large."""
    return not _inside(one, "xywh") and any(_inside(one, form) for form in ("xyxy", "cxcywh"))


def _may_be_fraction(one: _Evidence) -> bool:
    """Whether the numbers of one axis or both may be fractions of the image; of both only, if its size was right where they were made."""
    x, y, w, h = one.box
    return one.size is not None and any(map(may_be_fractions, ((x, w), (y, h)), one.size))


def may_be_fractions(numbers: Sequence[float], side: int | None) -> bool:
    """Whether two numbers of one axis may be fractions of an image: up to 1, or up to 2 and not whole.

    Args:
        side: the image's in px, None if it is not known; in a tiny image, such a box may be a box.
    """
    largest = max(map(abs, numbers))
    if side is not None and side <= _MIN_SIDE:
        return False
    return largest <= 1 or (largest <= _LARGEST_FRACTION and not all(float(one).is_integer() for one in numbers))


def _is_like_corners(one: _Evidence) -> bool:
    """Whether the stated area is that of the numbers as corners, and not as width and height."""
    return _has_area(one, "xywh") is False and bool(_has_area(one, "xyxy"))


def _is_unlike_mask(one: _Evidence) -> bool:
    return _fits_mask(one, "xywh") is False


_CHECKS: tuple[tuple[str, Callable[[_Evidence, str], bool | None], int], ...] = (
    ("do not fit their masks", _fits_mask, 1),
    ("do not have their area", _has_area, 1),
    ("leave their images", _inside, MIN_BEYOND),
)
"""In words what a box does that fails a check, the check, and the fewest boxes that count."""


def _is_fraction(box: Box) -> bool:
    x, y, w, h = box
    return min(x, y) >= -0.01 and max(x + w, y + h) <= 1.01 and min(w, h) > 0


def _scaled(box: Box, sides: tuple[int, int]) -> Box:
    x, y, w, h = box
    return x * sides[0], y * sides[1], w * sides[0], h * sides[1]


def names() -> tuple[str, ...]:
    """The readings, as the option names them."""
    return get_args(Boxes)
