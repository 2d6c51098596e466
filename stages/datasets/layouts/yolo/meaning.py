"""What the numbers of a data set's lines mean, judged over all of them: one line alone can be read in several ways.

Refused, because two readings fit: class numbers that seem to count from 1, px instead of fractions, corners or the top left
corner instead of the center, keypoints that could be polygons.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from deploy.errors import DataError
from stages.datasets.layouts.yolo.head import DataFile
from stages.datasets.layouts.yolo.lines import ReadLine

EDGE = 0.02
"""How far beyond its image's edge a box may reach as a matter of rounding, as a share of the image."""

LARGEST = 1.5
"""The largest box or coordinate that can be a fraction of an image."""

_MOST_UNREADABLE = 0.5
_MANY = 0.25
_NEARLY_ALL = 0.9
_ENOUGH_QUADS = 10


class Place(NamedTuple):
    """A line and the file it is in."""

    file: Path
    line: ReadLine

    def __str__(self) -> str:
        return f"{self.file}:{self.line.number}: '{self.line.text.strip()[:80]}'"


def check(places: Sequence[Place], names: Mapping[int, str], data: DataFile) -> None:
    """Check that the lines have one meaning.

    Raises:
        DataError: there are two; the message names the first line concerned and what to do.
    """
    _check_classes(places, names)
    boxes = [place for place in places if len(place.line.values) in (4, 5) or data.keypoints]
    _check_units(places)
    _check_corners([place for place in boxes if has_area(place.line.values)])
    if data.keypoints is None and not data.polygons:
        _check_keypoints(places, data)


def check_readable(unreadable: Sequence[str], num_lines: int) -> None:
    """Check that most lines can be read.

    Raises:
        DataError: they cannot.
    """
    if len(unreadable) > _MOST_UNREADABLE * num_lines:
        raise DataError(f"{unreadable[0]} is not 'class x y width height', as {len(unreadable)} of {num_lines} lines; is it a YOLO label?")


def has_area(values: Sequence[float]) -> bool:
    """Whether a box is finite and has an area."""
    x, y, w, h = values[:4]
    return abs(x) < 1e6 and abs(y) < 1e6 and 0 < w < 1e6 and 0 < h < 1e6


def is_beyond(values: Sequence[float]) -> bool:
    """Whether a box (center, size) reaches further beyond its image than rounding explains."""
    x, y, w, h = values[:4]
    return min(x - w / 2, y - h / 2) < -EDGE or max(x + w / 2, y + h / 2) > 1 + EDGE


def has_visibility(values: Sequence[float]) -> bool:
    """Whether keypoints with a visibility of 0, 1 or 2 follow the box."""
    points = values[4:]
    return len(points) > 2 and len(points) % 3 == 0 and all(value in (0, 1, 2) for value in points[2::3])


def _check_classes(places: Sequence[Place], names: Mapping[int, str]) -> None:
    outside = next((place for place in places if place.line.category not in names), None)
    if outside is None:
        return
    found = {place.line.category for place in places}
    numbers = sorted(names)
    if numbers == list(range(len(names))) and min(found) == 1 and max(found) == len(names):
        raise DataError(
            f"{outside}: class numbers run from 1 to {len(names)}, but the {len(names)} names are counted from 0; "
            f"subtract 1 in the label files, or number the names: names: {{1: {names[0]}, ...}}"
        )
    known = f"{numbers[0]} to {numbers[-1]}" if len(numbers) == numbers[-1] - numbers[0] + 1 else ", ".join(map(str, numbers[:10]))
    raise DataError(f"{outside}: class {outside.line.category} has no name; the names are numbered {known}")


def _check_units(places: Sequence[Place]) -> None:
    large = [place for place in places if any(LARGEST < abs(value) < float("inf") for value in place.line.values[:4])]
    if large and 2 * len(large) >= len(places):
        text = f"{len(large)} of {len(places)} lines have numbers far above 1; YOLO's are fractions of the image's width and height"
        raise DataError(f"{large[0]}: {text}; divide px by the image's size, percent by 100")


def _check_corners(boxes: Sequence[Place]) -> None:
    beyond = [place for place in boxes if is_beyond(place.line.values)]
    if not beyond or len(beyond) < _MANY * len(boxes):
        return
    readings: dict[str, Callable[[float, float, float, float], bool]] = {
        "two corners": lambda x, y, w, h: x < w <= 1 + EDGE and y < h <= 1 + EDGE and min(x, y) >= -EDGE,
        "the top left corner and the size": lambda x, y, w, h: min(x, y) >= -EDGE and max(x + w, y + h) <= 1 + EDGE,
    }
    for words, fits in readings.items():
        if sum(fits(*place.line.values[:4]) for place in boxes) >= _NEARLY_ALL * len(boxes):
            text = f"{len(beyond)} of {len(boxes)} boxes reach beyond their image; the numbers seem to be {words}"
            raise DataError(f"{beyond[0]}: {text}, but YOLO's are the center and the size; convert them")


def _check_keypoints(places: Sequence[Place], data: DataFile) -> None:
    long = [place for place in places if len(place.line.values) > 5]
    lengths = {len(place.line.values) for place in long}
    if len(lengths) != 1 or min(lengths) % 2:
        return
    fitting = [place for place in long if _points_inside(place.line.values)]
    if len(fitting) < _NEARLY_ALL * len(long):
        return
    if lengths == {8} and len(long) >= _ENOUGH_QUADS and all(_is_convex(place.line.values) for place in long):
        return
    file = data.path.name if data.path is not None else "a data.yaml"
    raise DataError(
        f"{fitting[0]}: a polygon, or a box and its keypoints, as all {len(long)} lines longer than a box; "
        f"for keypoints set kpt_shape: [number, 2 or 3] in {file}, for polygons kpt_shape: none"
    )


def _points_inside(values: Sequence[float]) -> bool:
    """Whether the numbers after the first four can be points inside the box that those are."""
    if not has_area(values) or is_beyond(values):
        return False
    x, y, w, h = values[:4]
    return any(
        all(
            (px, py) == (0, 0) or (abs(px - x) <= w / 2 + EDGE and abs(py - y) <= h / 2 + EDGE)
            for px, py in zip(values[4::step], values[5::step], strict=False)
        )
        for step in ((2, 3) if (len(values) - 4) % 3 == 0 else (2,))
    )


def _is_convex(values: Sequence[float]) -> bool:
    points = list(zip(values[::2], values[1::2], strict=True))
    turns = []
    for index, (x, y) in enumerate(points):
        (bx, by), (cx, cy) = points[(index + 1) % 4], points[(index + 2) % 4]
        turns.append((bx - x) * (cy - by) - (by - y) * (cx - bx))
    return all(turn > 0 for turn in turns) or all(turn < 0 for turn in turns)
