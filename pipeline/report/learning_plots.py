"""mAP over each training, all networks on the same axes, and what the last fifth of each training gave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.comparison.learning_curve import SHARES, still_rising
from deploy.contract import LastFifth
from pipeline.report.charts import (
    ASCENT,
    GAP,
    LINE_HEIGHT,
    AxisScale,
    Chart,
    Label,
    Line,
    Mark,
    Point,
    Rectangle,
    apart,
    extent,
    path_of,
    text_width,
)
from pipeline.results.learning import Learner, called, learners

_APART = 2.4 * LINE_HEIGHT
_LEAST_LEADER = 7.0
_LABEL_GAP = GAP + _LEAST_LEADER


@dataclass(frozen=True)
class LearnerRow:
    """A network's gain in the last fifth of its training; `rising` is null if that is unknown, for the reason `why`."""

    series: str
    name: str
    gave: LastFifth | None
    rising: bool | None
    why: str


def learning(summary: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The chart in two widths and the rows of the table below; without curves, no charts.

    Args:
        names: the run's networks; those without a curve are listed.
    """
    trained = learners(summary)
    drawn = [one for one in trained if any(point.map is not None for point in one.curve.points)]
    invalid = [(one.name, point.share, point.why) for one in trained for point in one.curve.points if point.why is not None]
    return {
        "charts": [learning_chart(drawn, width) for width in (620, 350)] if drawn else [],
        "rows": [row(one) for one in trained],
        "num_images": max((one.curve.num_images for one in trained), default=0),
        "invalid": invalid,
        "absent": [called(name) for name in names if summary.get(name) and not summary[name].get("curve")],
    }


def row(learner: Learner) -> LearnerRow:
    """What the last fifth gave one network."""
    gave = learner.curve.last_fifth
    why = "" if gave is None else f"{gave.num_images} images are too few to tell"
    short = "judged at its end only" if len(learner.curve.points) == 1 else "undefined"
    return LearnerRow(learner.series, learner.name, gave, still_rising(gave), why or short)


def learning_chart(trained: Sequence[Learner], width: int) -> Chart:
    """mAP against the share of each network's own training, with the networks' names at the ends of their curves."""
    height = 300
    words = {one: (one.name, f"{_end(one)}{_verdict(one)}") for one in trained}
    frame: Rectangle = (52, 14, width - _LABEL_GAP - max(text_width(*both) for both in words.values()), height - 46)
    points = {one: [(p.share, p.map) for p in one.curve.points if p.map is not None] for one in trained}
    low, high = extent(value for curve in points.values() for _, value in curve)
    x = AxisScale(0, 100, frame[0], frame[2])
    y = AxisScale(0 if 0 <= low < high / 2 else low, high, frame[3], frame[1])
    placed = {one: [(x(100 * share), y(value)) for share, value in curve] for one, curve in points.items()}
    lines = [Line(one.series, path_of(curve), one.name) for one, curve in placed.items() if len(curve) > 1]
    marks = [
        Mark(one.series, *at, f"{one.name}: mAP {value:.3f} after {share:.0%}")
        for one in trained
        for at, (share, value) in zip(placed[one], points[one], strict=True)
    ]
    border = x(100 * SHARES[-1])
    return Chart(
        title="mAP during training: " + ", ".join(f"{name} ends at {detail}" for name, detail in words.values()),
        width=width,
        height=height,
        frame=frame,
        x_ticks=x.ticks(5),
        y_ticks=y.ticks(5),
        x_title="% of the training's steps",
        y_title="mAP",
        lines=(Line("front", path_of([(border, frame[1]), (border, frame[3])]), "the last fifth begins"), *lines),
        marks=tuple(marks),
        labels=_labels({one: (curve[-1], words[one]) for one, curve in placed.items()}, frame),
        mark_radius=4.5,
    )


def _end(learner: Learner) -> str:
    return next(f"{point.map:.3f}" for point in reversed(learner.curve.points) if point.map is not None)


def _verdict(learner: Learner) -> str:
    return "" if learner.rising is None else ", still rising"


def _labels(ends: Mapping[Learner, tuple[Point, tuple[str, str]]], frame: Rectangle) -> tuple[Label, ...]:
    """Names right of the ends of the curves, moved apart where they would overlap."""
    order = sorted(ends, key=lambda one: ends[one][0][1])
    heights = apart([ends[one][0][1] for one in order], _APART, frame[1] + LINE_HEIGHT, frame[3] - LINE_HEIGHT)
    labels = []
    for one, height in zip(order, heights, strict=True):
        (right, end), words = ends[one]
        left = frame[2] + _LABEL_GAP
        leader = path_of([(right, end), (left - 2, height)]) if abs(height - end) > _LEAST_LEADER else None
        labels.append(Label(one.series, left, round(height - LINE_HEIGHT + ASCENT, 1), *words, leader=leader))
    return tuple(labels)
