"""Charts as plain numbers: the places of ticks, lines, marks and labels. The template draws them in the colors of the page."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.report.words import MINUS

GAP = 10
"""px between a mark and its label."""

LINE_HEIGHT = 15
ASCENT = 11
MARK_RADIUS = 6
NAME_PX, DETAIL_PX = 7.9, 6.9
"""Width of a letter of a label's first and second line, px."""

_BESIDE = ((1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (0.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
_AROUND = tuple((math.cos(math.pi * turn / 8), -math.sin(math.pi * turn / 8)) for turn in range(16))
_DISTANCES = range(24, 300, 12)
_ROUNDS = 3
"""How often each label's place is chosen again, given the places of all others."""

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tick:
    """A value's place on an axis, px."""

    at: float
    text: str


@dataclass(frozen=True)
class AxisScale:
    """Maps values from low to high to px from start to end; `log` spaces equal ratios equally."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The value's place, px."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (here - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, count: int, *, whole: bool = False) -> tuple[Tick, ...]:
        """About `count` round values, only whole numbers if `whole`."""
        values = _round_ratios(self.low, self.high, count) if self.log else []
        if len(values) >= 3:
            return tuple(Tick(self(value), tick_text(value, value, value)) for value in values)
        step, values = _round_steps(self.low, self.high, count, smallest=1.0 if whole else 0.0)
        largest = max(map(abs, values), default=0.0)
        return tuple(Tick(self(value), tick_text(value, step, largest)) for value in values)


@dataclass(frozen=True)
class Line:
    """`series` and `style` choose color and dashes; `path` is SVG's; `title` is shown on hovering."""

    series: str
    path: str
    title: str
    style: str = ""


@dataclass(frozen=True)
class Mark:
    """One point, px."""

    series: str
    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Label:
    """Text next to a mark: `text` above `detail`, the first baseline at y; x is the start, middle or end, as `anchor` says.

    `leader` is a path that connects a distant label to its mark.
    """

    series: str
    x: float
    y: float
    text: str
    detail: str
    anchor: str = "start"
    leader: str | None = None


@dataclass(frozen=True)
class Chart:
    """A plot of width x height px with the axes around `frame` (left, top, right, bottom); marks have a radius of `mark_radius` px."""

    title: str
    width: int
    height: int
    frame: Rectangle
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str = ""
    y_title: str = ""
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    labels: tuple[Label, ...] = ()
    mark_radius: float = 3.5


def extent(values: Iterable[float], *, margin: float = 0.0) -> tuple[float, float]:
    """The smallest and largest value, never equal, each moved outward by `margin` times their difference."""
    given = list(values)
    low, high = min(given), max(given)
    if low == high:
        half = abs(low) * 0.1 or 0.5
        return low - half, high + half
    return low - (high - low) * margin, high + (high - low) * margin


def path_of(points: Sequence[Point]) -> str:
    """An open SVG path through points in px, without points on the straight line between their neighbors."""
    kept = [p for i, p in enumerate(points) if not _between(points, i)]
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in kept)


def tick_text(value: float, step: float, largest: float) -> str:
    """A tick's value in as few characters as tell it from its neighbors, a round `step` away; `largest` chooses the axis' notation."""
    if value == 0:
        return "0"
    sign = MINUS if value < 0 else ""
    if largest < 1e-2:
        digits = max(math.floor(math.log10(abs(value))) - math.floor(math.log10(step)), 0)
        mantissa, exponent = f"{abs(value):.{digits}e}".split("e")
        return f"{sign}{_trimmed(mantissa)}e{int(exponent)}"
    unit, letter = next(((unit, letter) for unit, letter in _UNITS if largest >= 10 * unit), (1.0, ""))
    digits = max(-math.floor(math.log10(step / unit)), 0)
    return f"{sign}{_trimmed(f'{abs(value) / unit:.{digits}f}')}{letter}"


def _trimmed(number: str) -> str:
    """Without zeros that end a fraction."""
    return number.rstrip("0").rstrip(".") if "." in number else number


@dataclass(frozen=True)
class _Place:
    """A possible place for a label: its side of the mark, its distance, and points along the line that connects a distant label."""

    box: Rectangle
    anchor: str
    distance: float
    leader: tuple[Point, ...] = ()

    def cost(self, taken: Sequence[Rectangle], placed: Sequence["_Place"]) -> float:
        """How many marks, lines and labels the leader crosses, plus how many leaders cross the label; distance adds a little."""
        run_through = sum(_covers(box, self.leader) for box in taken) + sum(_covers(self.box, other.leader) for other in placed)
        return run_through + self.distance / 60


def place_labels(
    marks: Sequence[Mark], words: Sequence[tuple[str, str]], frame: Rectangle, obstacles: Sequence[Rectangle] = ()
) -> tuple[Label, ...]:
    """Labels (text, detail) near their marks, inside the frame, that overlap neither each other nor any mark or obstacle.

    A mark gets no label if there is no room for it anywhere.
    """
    fixed = [(mark.x - MARK_RADIUS, mark.y - MARK_RADIUS, mark.x + MARK_RADIUS, mark.y + MARK_RADIUS) for mark in marks]
    fixed += obstacles
    places = [
        [place for place in _places(m, *_extent_of(*label)) if _inside(place.box, frame)] for m, label in zip(marks, words, strict=True)
    ]
    order = sorted(range(len(marks)), key=lambda index: (marks[index].x, marks[index].y))
    chosen: dict[int, _Place] = {}
    for index in order * _ROUNDS:
        others = [place for other, place in chosen.items() if other != index]
        taken = [*fixed, *(other.box for other in others)]
        free = [place for place in places[index] if not any(_overlap(place.box, box) for box in taken)]
        if free:
            chosen[index] = min(free, key=lambda place: place.cost(taken, others))
    return tuple(_label(marks[index], *words[index], chosen[index]) for index in order if index in chosen)


def _label(mark: Mark, text: str, detail: str, place: _Place) -> Label:
    left, top, right, _ = place.box
    x = {"start": left, "middle": (left + right) / 2, "end": right}[place.anchor]
    leader = path_of([(mark.x, mark.y), place.leader[-1]]) if place.leader else None
    return Label(mark.series, round(x, 1), round(top + ASCENT, 1), text, detail, place.anchor, leader)


def apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Ascending places moved as little as needed to be at least `distance` apart and between `low` and `high`, if there is room."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, low, moved[-1] + distance if moved else low))
    for index in range(len(moved) - 1, -1, -1):
        moved[index] = min(moved[index], high - distance * (len(moved) - 1 - index))
    return moved


def shortened(text: str, most: int) -> str:
    """At most so many letters of a text."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _extent_of(text: str, detail: str) -> tuple[float, float]:
    """Width and height of two lines of text in the widest of the usual fonts."""
    return text_width(text, detail), 2.0 * LINE_HEIGHT


def text_width(text: str, detail: str) -> float:
    """Width of a label's two lines, px."""
    return max(NAME_PX * len(text), DETAIL_PX * len(detail))


def _places(mark: Mark, width: float, height: float) -> Iterator[_Place]:
    """Places around a mark for a label of this size, the best first."""
    for distance, directions in ((GAP, _BESIDE), *((distance, _AROUND) for distance in _DISTANCES)):
        for right, down in directions:
            left = mark.x + right * (distance + width / 2) - width / 2
            top = mark.y + down * (distance + height / 2) - height / 2
            box = (left, top, left + width, top + height)
            end = round(_clamp(mark.x, left, box[2]), 1), round(_clamp(mark.y, top, box[3]), 1)
            leader = _steps((mark.x, mark.y), end) if distance > GAP else ()
            yield _Place(box, "start" if right > 0.5 else "end" if right < -0.5 else "middle", distance, leader)


def _steps(start: Point, end: Point) -> tuple[Point, ...]:
    """Points along a line, without those near its start."""
    return tuple((start[0] + (end[0] - start[0]) * n / 12, start[1] + (end[1] - start[1]) * n / 12) for n in range(3, 13))


def _covers(box: Rectangle, points: Sequence[Point]) -> bool:
    return any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in points)


def _round_steps(low: float, high: float, count: int, *, smallest: float) -> tuple[float, list[float]]:
    """The smallest round step with which no more than `count` steps are needed, and its multiples."""
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    steps = (max(power * factor, smallest) for factor in (1, 2, 5, 10, 20))
    multiples = ((step, range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)) for step in steps)
    return next((step, [number * step for number in numbers]) for step, numbers in multiples if len(numbers) <= count + 1)


def _round_ratios(low: float, high: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        found = [value for value in values if low <= value <= high]
        if len(found) <= count:
            return found
    return found


def _between(points: Sequence[Point], index: int) -> bool:
    if index in (0, len(points) - 1):
        return False
    (x0, y0), (x1, y1), (x2, y2) = points[index - 1 : index + 2]
    return y0 == y1 == y2 and x0 <= x1 <= x2


def _inside(box: Rectangle, frame: Rectangle) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
