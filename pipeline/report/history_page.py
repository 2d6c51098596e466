"""history.html: a metric over past runs in one file that opens offline."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.report import environment
from pipeline.report.charts import DETAIL_PX, NAME_PX, AxisScale, Chart, Label, Line, Mark, apart, extent, path_of, shortened, text_width
from pipeline.results.table import number
from pipeline.store.files import replace_text

WIDTHS = (900, 350)
"""Of the plot on broad and on narrow screens, px."""

TOP, BELOW = 14.0, 50.0
"""Where the frame begins, and the room below it, px."""

LEAST_HEIGHT, LABEL_ROOM = 320, 32
"""Of the plot and of a target's label, px."""

NAMES_SHARE = 0.4
"""The largest part of the width that is left to names."""

STYLES = ("student", "teacher", "baseline")


def write_page(name: str, metric: str, past: Sequence[Mapping[str, Any]], series: Mapping[str, Sequence[float | None]], file: Path) -> None:
    """Write the page, completely or not at all."""
    page = environment({"number": number}).get_template("history.html.j2")
    charts = [chart(metric, past, series, width) for width in WIDTHS]
    replace_text(file, page.render(name=name, metric=metric, past=past, series=series, charts=charts))


def chart(metric: str, past: Sequence[Mapping[str, Any]], series: Mapping[str, Sequence[float | None]], width: int) -> Chart | None:
    """One line per target over the runs, named at its last point; None if the metric was never measured."""
    known = {target: [(run, value) for run, value in enumerate(points) if value is not None] for target, points in series.items()}
    known = {target: points for target, points in known.items() if points}
    if not known:
        return None
    most = int(NAMES_SHARE * width / NAME_PX)
    words = {target: (shortened(target, most), number(points[-1][1])) for target, points in known.items()}
    height = max(LEAST_HEIGHT, LABEL_ROOM * len(known) + 60)
    bottom = height - BELOW
    y = AxisScale(*extent((value for points in known.values() for _, value in points), margin=0.08), bottom, TOP)
    left = max(52.0, 14 + DETAIL_PX * max(len(tick.text) for tick in y.ticks(6)))
    right = width - 24 - max(text_width(*both) for both in words.values())
    x = AxisScale(*extent(range(1, len(past) + 1), margin=0.03), left, right)
    lines, marks, labels = [], [], []
    for index, (target, points) in enumerate(known.items()):
        style = STYLES[index % len(STYLES)]
        placed = [(x(run + 1), y(value)) for run, value in points]
        lines.append(Line(style, path_of(placed), target))
        titles = [f"{target}, {past[run]['time']}: {number(value)}" for run, value in points]
        marks += [Mark(style, *at, title) for at, title in zip(placed, titles, strict=True)]
        labels.append(Label(style, placed[-1][0] + 14, placed[-1][1], *words[target]))
    return Chart(
        title=f"{metric} over {len(past)} runs of {', '.join(known)}",
        width=width,
        height=height,
        frame=(left, TOP, right, bottom),
        x_ticks=x.ticks(width // 110, whole=True),
        y_ticks=y.ticks(6),
        x_title="run, oldest first",
        lines=tuple(lines),
        marks=tuple(marks),
        labels=_one_below_the_other(labels, bottom),
    )


def _one_below_the_other(labels: Sequence[Label], bottom: float) -> tuple[Label, ...]:
    """The labels with room for two lines of text each, inside the frame."""
    ordered = sorted(labels, key=lambda label: label.y)
    heights = apart([label.y for label in ordered], LABEL_ROOM, TOP + 10, bottom - 12)
    return tuple(replace(label, y=height) for label, height in zip(ordered, heights, strict=True))
