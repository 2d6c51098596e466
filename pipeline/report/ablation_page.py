"""ablation.html: the table and the plot of an ablation in one file that opens offline."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.report import environment
from pipeline.report.charts import DETAIL_PX, AxisScale, Chart, Label, Line, Mark, Tick, extent
from pipeline.report.words import fraction, percent, points
from pipeline.results.ablation import BASELINE, Ablation
from pipeline.results.gain_lines import LEGEND
from pipeline.store.files import replace_text

ROW_PX = 46
WIDTH = 900
NARROW, NARROW_ROW = 350, 44
"""Width of the plot on a small screen, px, and the height of a row, which has the name above its marks."""


def write_page(measured: Ablation, file: Path) -> None:
    """Write the page, completely or not at all."""
    page = environment({"fraction": fraction, "points": points, "percent": percent}).get_template("ablation.html.j2")
    tables = [("mAP", measured), *([("Mask mAP", measured.masks)] if measured.masks is not None else [])]
    drawn = [(title, one, (gain_chart(one, title), narrow_chart(one, title))) for title, one in tables]
    replace_text(file, page.render(ablation=measured, about_baseline=LEGEND, tables=drawn))


def gain_chart(measured: Ablation, metric: str = "mAP") -> Chart:
    """One row per variant: each seed's gain, the mean, and its interval; the line at 0 is the baseline."""
    names = list(measured.gains)
    height = ROW_PX * len(names) + 60
    frame = (7 + DETAIL_PX * max(map(len, names)), 10.0, WIDTH - 20.0, height - 50.0)
    rows = {name: frame[1] + ROW_PX * (index + 0.5) for index, name in enumerate(names)}
    found = Chart("", WIDTH, height, frame, (), tuple(Tick(y, name) for name, y in rows.items()), mark_radius=8)
    return _with_gains(found, measured, metric, rows, 8)


def narrow_chart(measured: Ablation, metric: str = "mAP") -> Chart:
    """The same for small screens, with the names above their rows instead of beside them."""
    height = NARROW_ROW * len(measured.gains) + 60
    frame = (6.0, 4.0, NARROW - 6.0, height - 50.0)
    tops = {name: frame[1] + NARROW_ROW * index for index, name in enumerate(measured.gains)}
    labels = tuple(Label("student", frame[0], top + 14, name, "") for name, top in tops.items())
    found = Chart("", NARROW, height, frame, (), (), labels=labels, mark_radius=6)
    return _with_gains(found, measured, metric, {name: top + 30 for name, top in tops.items()}, 5)


def _with_gains(empty: Chart, measured: Ablation, metric: str, rows: Mapping[str, float], num_ticks: int) -> Chart:
    """A chart with what is drawn in each row, whose places are in px."""
    left, top, right, bottom = empty.frame
    ends = [end * 100 for gain in measured.gains.values() for end in (gain.low, gain.high, *gain.differences) if end is not None]
    x = AxisScale(*extent([0.0, *ends], margin=0.06), left, right)
    lines = [Line("zero", f"M{x(0):g},{top:g}L{x(0):g},{bottom:g}", BASELINE)]
    marks: list[Mark] = []
    for name, gain in measured.gains.items():
        y = rows[name]
        if gain.low is not None and gain.high is not None:
            title = f"{name}: 95% interval {points(gain.low)} to {points(gain.high)}"
            lines.append(Line("student", f"M{x(gain.low * 100):g},{y:g}L{x(gain.high * 100):g},{y:g}", title))
        for seed, value in zip(measured.seeds, gain.differences, strict=True):
            marks.append(Mark("seed", x(value * 100), y, f"{name}, seed {seed}: {points(value)} points"))
        marks.append(Mark("student", x(gain.mean * 100), y, f"{name}: {points(gain.mean)} points on average"))
    gains = "; ".join(f"{name} {points(gain.mean)}" for name, gain in measured.gains.items())
    return replace(
        empty,
        title=f"Gain over the baseline in points of {metric}: {gains}",
        x_ticks=x.ticks(num_ticks),
        x_title=f"gain over the baseline, points of {metric}",
        lines=tuple(lines),
        marks=tuple(marks),
    )
