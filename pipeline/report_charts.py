"""Charts as plain numbers: where ticks, lines, marks and words stand. The template draws them, in the colors of the page."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GAP = 10
"""px between a mark and its words."""

LINE_HEIGHT = 15
MARK_RADIUS = 6
_DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))
_DISTANCES = (1.0, 2.2, 3.6, 5.2, 7.0, 9.0)

Point = tuple[float, float]
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tick:
    """A value's place on an axis, px."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
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
    """A plot of width x height px whose axes leave `frame` (left, top, right, bottom)."""

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
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 10):g}"


def place_labels(
    marks: Sequence[Mark], words: Sequence[tuple[str, str]], frame: Rectangle, obstacles: Sequence[Rectangle] = ()
) -> tuple[Label, ...]:
    """Words (text, detail) for each mark, near it, inside the frame and clear of each other, of all marks and of the obstacles.

    A mark for whose words there is no room anywhere gets none.
    """
    taken = [(mark.x - MARK_RADIUS, mark.y - MARK_RADIUS, mark.x + MARK_RADIUS, mark.y + MARK_RADIUS) for mark in marks]
    taken += obstacles
    labels = []
    for mark, (text, detail) in sorted(zip(marks, words, strict=True), key=lambda pair: (pair[0].x, pair[0].y)):
        size = max(7.6 * len(text), 6.6 * len(detail)), 2.0 * LINE_HEIGHT
        for box, near in _candidates(mark, size):
            if _inside(box, frame) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                leader = None if near else f"M{mark.x:g},{mark.y:g}L{_clamp(mark.x, box[0], box[2]):g},{_clamp(mark.y, box[1], box[3]):g}"
                labels.append(Label(mark.series, round(box[0], 1), round(box[1] + 11, 1), text, detail, leader))
                break
    return tuple(labels)


def label_box(label: Label) -> Rectangle:
    """Where the words stand, px."""
    top = label.y - 11
    return label.x, top, label.x + max(7.6 * len(label.text), 6.6 * len(label.detail)), top + 2 * LINE_HEIGHT


def _candidates(mark: Mark, size: tuple[float, float]) -> Iterable[tuple[Rectangle, bool]]:
    """Places for a box of that size, the best first, and whether each touches the mark."""
    width, height = size
    for distance in _DISTANCES:
        gap = GAP * distance
        for right, down in _DIRECTIONS:
            left = mark.x + (gap if right > 0 else -gap - width if right < 0 else -width / 2)
            top = mark.y + (gap if down > 0 else -gap - height if down < 0 else -height / 2)
            yield (left, top, left + width, top + height), distance == _DISTANCES[0]


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
