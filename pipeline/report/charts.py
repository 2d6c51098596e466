"""Charts as plain numbers: where ticks, lines, marks and words stand. The template draws them, in the colors of the page."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GAP = 10
"""px between a mark and its words."""

LINE_HEIGHT = 15
ASCENT = 11
MARK_RADIUS = 6
_BESIDE = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
_DISTANCES = range(24, 300, 12)
_TURNS = 16

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tick:
    """A value's place on an axis, px."""

    at: float
    text: str


@dataclass(frozen=True)
class AxisScale:
    """From values, low to high, to px, start to end; `log` spaces equal ratios equally."""

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
        """About `count` round values, whole numbers alone where asked."""
        values = _round_ratios(self.low, self.high, count) if self.log else []
        if len(values) < 3:
            values = _round_steps(self.low, self.high, count, smallest=1.0 if whole else 0.0)
        return tuple(Tick(self(value), tick_text(value)) for value in values)


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
    """Words beside a mark: `text` over `detail`, from x to the right, the first baseline at y; `leader` ties distant ones to it."""

    series: str
    x: float
    y: float
    text: str
    detail: str
    leader: str | None


@dataclass(frozen=True)
class Chart:
    """A plot of width x height px whose axes leave `frame` (left, top, right, bottom); marks have `mark_radius` px."""

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
    """The smallest and largest value, never the same one, each moved out by `margin` of what lies between."""
    given = list(values)
    low, high = min(given), max(given)
    if low == high:
        half = abs(low) * 0.1 or 0.5
        return low - half, high + half
    return low - (high - low) * margin, high + (high - low) * margin


def path_of(points: Sequence[Point]) -> str:
    """An open SVG path through points in px, without those that lie on the straight line between their neighbors."""
    kept = [p for i, p in enumerate(points) if not _between(points, i)]
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in kept)


def tick_text(value: float) -> str:
    """A tick's value in few characters."""
    if 1e-12 < abs(value) < 1e-2:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 10):g}"


def place_labels(
    marks: Sequence[Mark], words: Sequence[tuple[str, str]], frame: Rectangle, obstacles: Sequence[Rectangle] = ()
) -> tuple[Label, ...]:
    """Words (text, detail) for each mark, near it, inside the frame and clear of each other, of all marks and of the obstacles.

    A mark for whose words there is no room anywhere gets none.
    """
    taken = [(mark.x - MARK_RADIUS, mark.y - MARK_RADIUS, mark.x + MARK_RADIUS, mark.y + MARK_RADIUS) for mark in marks]
    taken += obstacles
    labels: list[Label] = []
    leaders: list[Rectangle] = []
    for mark, (text, detail) in sorted(zip(marks, words, strict=True), key=lambda pair: (pair[0].x, pair[0].y)):
        places = [
            (box, _leader(mark, box) if distant else ())
            for box, distant in _candidates(mark, _extent_of(text, detail))
            if _inside(box, frame) and not any(_overlap(box, other) for other in taken)
        ]
        uncrossed = (place for place in places if not _crossed(*place, labels, leaders))
        box, leader = next(uncrossed, places[0] if places else (None, ()))
        if box is not None:
            taken.append(box)
            leaders += leader
            path = f"M{mark.x:g},{mark.y:g}L{leader[-1][0]:g},{leader[-1][1]:g}" if leader else None
            labels.append(Label(mark.series, round(box[0], 1), round(box[1] + ASCENT, 1), text, detail, path))
    return tuple(labels)


def _crossed(box: Rectangle, leader: Sequence[Rectangle], labels: Sequence[Label], leaders: Sequence[Rectangle]) -> bool:
    """Whether a line runs through words: another's through these, or this one's through others."""
    return any(_overlap(box, step) for step in leaders) or any(_overlap(step, label_box(label)) for step in leader for label in labels)


def _leader(mark: Mark, box: Rectangle) -> tuple[Rectangle, ...]:
    """Points along the line from a mark to the nearest edge of its words, as boxes of 1 px, the last on the edge."""
    x, y = round(_clamp(mark.x, box[0], box[2]), 1), round(_clamp(mark.y, box[1], box[3]), 1)
    steps = [(mark.x + (x - mark.x) * n / 12, mark.y + (y - mark.y) * n / 12) for n in range(3, 13)]
    return tuple((px, py, px + 1, py + 1) for px, py in steps)


def label_box(label: Label) -> Rectangle:
    """Where the words stand, px."""
    width, height = _extent_of(label.text, label.detail)
    return label.x, label.y - ASCENT, label.x + width, label.y - ASCENT + height


def _extent_of(text: str, detail: str) -> tuple[float, float]:
    """Width and height of two lines of words in the widest of the usual fonts."""
    return max(7.9 * len(text), 6.9 * len(detail)), 2.0 * LINE_HEIGHT


def _candidates(mark: Mark, size: tuple[float, float]) -> Iterable[tuple[Rectangle, bool]]:
    """Places for a box of that size, the best first, and whether each is so far off that it needs a line to the mark."""
    width, height = size
    for right, down in _BESIDE:
        left = mark.x + (GAP if right > 0 else -GAP - width if right < 0 else -width / 2)
        top = mark.y + (GAP if down > 0 else -GAP - height if down < 0 else -height / 2)
        yield (left, top, left + width, top + height), False
    for distance in _DISTANCES:
        for turn in range(_TURNS):
            angle = 2 * math.pi * turn / _TURNS
            left = mark.x + math.cos(angle) * (distance + width / 2) - width / 2
            top = mark.y - math.sin(angle) * (distance + height / 2) - height / 2
            yield (left, top, left + width, top + height), True


def _round_steps(low: float, high: float, count: int, *, smallest: float) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9)), smallest)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


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
