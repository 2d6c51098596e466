"""history.html: a metric over past runs in one file that opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.report import environment
from pipeline.report.charts import NAME_PX, AxisScale, Chart, Label, Line, Mark, extent, path_of
from pipeline.results.table import number
from pipeline.store.files import replace_text

WIDTH, HEIGHT = 900, 320
LEFT, TOP, BOTTOM = 52.0, 14.0, HEIGHT - 50.0
STYLES = ("student", "teacher", "baseline")


def write_page(name: str, metric: str, past: Sequence[Mapping[str, Any]], series: Mapping[str, Sequence[float | None]], file: Path) -> None:
    """Write the page, completely or not at all."""
    page = environment({"number": number}).get_template("history.html.j2")
    replace_text(file, page.render(name=name, metric=metric, past=past, series=series, chart=chart(metric, past, series)))


def chart(metric: str, past: Sequence[Mapping[str, Any]], series: Mapping[str, Sequence[float | None]]) -> Chart | None:
    """One line per target over the runs, named at its last point; None if the metric was never measured."""
    values = [value for points in series.values() for value in points if value is not None]
    if not values:
        return None
    right = WIDTH - 24 - NAME_PX * max(map(len, series))
    x = AxisScale(*extent(range(1, len(past) + 1), margin=0.03), LEFT, right)
    y = AxisScale(*extent(values, margin=0.08), BOTTOM, TOP)
    lines, marks, labels = [], [], []
    for index, (target, points) in enumerate(series.items()):
        style = STYLES[index % len(STYLES)]
        placed = [(x(run + 1), y(value), value, past[run]["time"]) for run, value in enumerate(points) if value is not None]
        if not placed:
            continue
        lines.append(Line(style, path_of([(left, top) for left, top, _, _ in placed]), target))
        marks += [Mark(style, left, top, f"{target}, {when}: {number(value)}") for left, top, value, when in placed]
        left, top, value, _ = placed[-1]
        labels.append((top, Label(style, left + 14, top, target, number(value))))
    return Chart(
        title=f"{metric} over {len(past)} runs of {', '.join(series)}",
        width=WIDTH,
        height=HEIGHT,
        frame=(LEFT, TOP, right, BOTTOM),
        x_ticks=x.ticks(8, whole=True),
        y_ticks=y.ticks(6),
        x_title="run, oldest first",
        lines=tuple(lines),
        marks=tuple(marks),
        labels=_apart(labels),
    )


def _apart(labels: Sequence[tuple[float, Label]], room: float = 32.0) -> tuple[Label, ...]:
    """The labels one below the other, with room for two lines of text each, and none below the frame."""
    placed, free = [], TOP + 10
    ordered = sorted(labels, key=lambda item: item[0])
    for index, (top, label) in enumerate(ordered):
        last = BOTTOM - room * (len(ordered) - index - 1) - 12
        at = max(free, min(top, last))
        placed.append(replace(label, y=at))
        free = at + room
    return tuple(placed)
