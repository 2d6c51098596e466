"""Builds charts from numbers: mAP against latency, training curves, precision against recall."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.report.charts import AxisScale, Chart, Line, Mark, Point, Rectangle, extent, path_of, place_labels

LOG_RATIO = 4
"""If the largest latency is more than this many times the smallest, the axis is logarithmic."""

DIAGNOSTICS = ("grad_norm", "learning_rate", "images_per_s")
"""Columns of curves.csv that are not losses."""

DERIVED = ("weighted/", "share/", "weight/")
"""Prefixes of columns with a term's weighted value, its share and the weight found for it, in addition to the term itself."""


@dataclass(frozen=True)
class EnginePoint:
    """A measured engine: `series` is teacher, baseline or student; latency is the end-to-end median in ms."""

    name: str
    series: str
    map: float
    latency: float


@dataclass(frozen=True)
class Panel:
    """A small chart, with the last value or the score of each series."""

    name: str
    chart: Chart
    figures: Mapping[str, float | None]


def pareto(engines: Sequence[EnginePoint]) -> list[EnginePoint]:
    """The engines that no other engine beats in both speed and accuracy, fastest first."""
    front: list[EnginePoint] = []
    for engine in sorted(engines, key=lambda e: (e.latency, -e.map)):
        if not front or engine.map > front[-1].map:
            front.append(engine)
    return front


def tradeoff(engines: Sequence[EnginePoint], width: int, height: int) -> Chart | None:
    """mAP against latency with the Pareto front; None if nothing was measured."""
    if not engines:
        return None
    frame: Rectangle = (52, 10, width - 14, height - 46)
    latencies = [engine.latency for engine in engines]
    log = max(latencies) > LOG_RATIO * min(latencies)
    low, high = (math.exp(v) for v in extent(map(math.log, latencies), margin=0.14)) if log else extent(latencies, margin=0.22)
    x = AxisScale(low if log else max(low, 0), high, frame[0], frame[2], log)
    bottom, top = extent((engine.map for engine in engines), margin=0.15)
    y = AxisScale(max(bottom, 0) if top > 0 else bottom, top, frame[3], frame[1])
    marks = [Mark(e.series, x(e.latency), y(e.map), f"{e.name}: mAP {e.map:.3f}, {e.latency:.3g} ms") for e in engines]
    words = [(engine.name, f"{engine.map:.3f}, {engine.latency:.3g} ms") for engine in engines]
    corners = _staircase(pareto(engines), x, y, frame)
    names = ", ".join(engine.name for engine in pareto(engines))
    return Chart(
        title=f"mAP against end-to-end latency of {len(engines)} engines. On the Pareto front: {names}.",
        width=width,
        height=height,
        frame=frame,
        x_ticks=x.ticks(max(4, width // 110)),
        y_ticks=y.ticks(5),
        x_title=f"end-to-end latency, median, ms{' (logarithmic)' if log else ''}",
        y_title="mAP",
        lines=(Line("front", path_of(corners), "Pareto front"),),
        marks=tuple(marks),
        labels=place_labels(marks, words, frame, [_strip(one, other) for one, other in pairwise(corners)]),
        mark_radius=7,
    )


def _staircase(front: Sequence[EnginePoint], x: AxisScale, y: AxisScale, frame: Rectangle) -> list[Point]:
    """The best mAP available at each latency: a step up at each engine of the front, then level."""
    corners: list[Point] = [(x(front[0].latency), frame[3])]
    for engine in front:
        corners += [(x(engine.latency), corners[-1][1]), (x(engine.latency), y(engine.map))]
    return [*corners, (frame[2], corners[-1][1])]


def _strip(one: Point, other: Point) -> Rectangle:
    """A narrow box around a horizontal or vertical line."""
    return min(one[0], other[0]) - 2, min(one[1], other[1]) - 2, max(one[0], other[0]) + 2, max(one[1], other[1]) + 2


def read_curves(file: Path) -> dict[str, list[tuple[float, float]]]:
    """Each column of a curves.csv as (epoch, value); empty and non-finite cells are left out, and a missing file has no columns."""
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    except OSError:
        return {}
    columns: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        epoch = _number(row.get("epoch"))
        for name, cell in row.items():
            value = _number(cell)
            if epoch is not None and value is not None and name != "epoch":
                columns.setdefault(name, []).append((epoch, value))
    return columns


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def training(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> tuple[list[Panel], list[Panel]]:
    """One panel per loss term, the sum first, and one panel per diagnostic, from the columns of each series."""
    names = sorted(dict.fromkeys(name for columns in curves.values() for name in columns), key=lambda name: name != "loss")
    diagnostics = [*DIAGNOSTICS, *(name for name in names if name.startswith(DERIVED))]
    terms = [name for name in names if name not in diagnostics]
    panels = {name: _training_panel(name, {s: columns[name] for s, columns in curves.items() if name in columns}) for name in names}
    return [panels[name] for name in terms], [panels[name] for name in diagnostics if name in panels]


def _training_panel(name: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> Panel:
    width, height = 250, 156
    frame: Rectangle = (46, 10, width - 8, height - 24)
    values = [value for points in series.values() for _, value in points]
    low, high = extent(values)
    first, last = min(p[0][0] for p in series.values()), max(p[-1][0] for p in series.values())
    x = AxisScale(*extent((first, last)), frame[0], frame[2])
    y = AxisScale(0 if min(values) >= 0 and low < high / 3 else low, high, frame[3], frame[1])
    placed = {key: [(x(epoch), y(value)) for epoch, value in points] for key, points in series.items()}
    lines = [Line(key, path_of(points), key) for key, points in placed.items() if len(points) > 1]
    ends = [Mark(key, *points[-1], f"{key}: {series[key][-1][1]:.4g}") for key, points in placed.items()]
    ends_at = ", ".join(f"{key} ends at {points[-1][1]:.3g}" for key, points in series.items())
    chart = Chart(
        f"{name} by epoch: {ends_at}", width, height, frame, x.ticks(6, whole=True), y.ticks(4), lines=tuple(lines), marks=tuple(ends)
    )
    return Panel(name, chart, {key: points[-1][1] for key, points in series.items()})


def precision_recall(curves: Mapping[str, tuple[str, str, Mapping[str, Any]]]) -> Chart | None:
    """Mean precision over classes at IoU 0.5, against recall; `curves` has (series, style, curves.json) for each engine."""
    known = {name: (s, style, c["recall"], c["iou_50"]["overall"]) for name, (s, style, c) in curves.items()}
    lines = [(name, s, style, recall, found) for name, (s, style, recall, found) in known.items() if found is not None]
    if not lines:
        return None
    width, height = 460, 380
    frame: Rectangle = (48, 12, width - 14, height - 44)
    x, y = AxisScale(0, 1, frame[0], frame[2]), AxisScale(0, 1, frame[3], frame[1])
    drawn = tuple(Line(s, path_of(_descent(recall, found, x, y)), name, style) for name, s, style, recall, found in lines)
    title = f"Precision at IoU 0.5 against recall for {', '.join(line[0] for line in lines)}"
    return Chart(title, width, height, frame, x.ticks(5), y.ticks(5), "recall", "precision at IoU 0.5", drawn)


def _descent(recall: Sequence[float], precision: Sequence[float], x: AxisScale, y: AxisScale) -> list[Point]:
    """The curve in px, down to its first 0: there is nothing to draw beyond the highest recall."""
    end = next((step + 1 for step, value in enumerate(precision) if value == 0), len(precision))
    return [(x(r), y(p)) for r, p in zip(recall[:end], precision[:end], strict=True)]


def class_curves(curves: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> list[Panel]:
    """One panel per class: each series' precision at IoU 0.5 against recall; its value is the mean precision, AP at IoU 0.5."""
    return [_class_panel(name, {s: (c["recall"], c["iou_50"]["per_class"].get(name)) for s, c in curves.items()}) for name in classes]


def _class_panel(name: str, series: Mapping[str, tuple[Sequence[float], Sequence[float] | None]]) -> Panel:
    width, height = 150, 112
    frame: Rectangle = (16, 6, width - 4, height - 14)
    x, y = AxisScale(0, 1, frame[0], frame[2]), AxisScale(0, 1, frame[3], frame[1])
    drawn = tuple(Line(key, path_of(_descent(recall, found, x, y)), key) for key, (recall, found) in series.items() if found is not None)
    values = {key: average(found) for key, (_, found) in series.items()}
    precisions = ", ".join(f"{key} {'undefined' if value is None else f'{value:.3f}'}" for key, value in values.items())
    return Panel(
        name,
        Chart(
            f"Precision against recall for {name}. AP at IoU 0.5: {precisions}", width, height, frame, x.ticks(1), y.ticks(1), lines=drawn
        ),
        values,
    )


def average(curve: Sequence[float] | None) -> float | None:
    """AP, the mean precision over all recalls; None without a curve."""
    return None if curve is None else sum(curve) / len(curve)
