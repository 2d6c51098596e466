"""ablation.html: the table and the plot of an ablation in one file that opens offline."""

from pathlib import Path

from pipeline.report import environment
from pipeline.report.charts import DETAIL_PX, AxisScale, Chart, Line, Mark, Tick, extent
from pipeline.report.words import fraction, percent, points
from pipeline.results.ablation import BASELINE, Ablation
from pipeline.results.gain_lines import LEGEND
from pipeline.store.files import replace_text

ROW_PX = 46
WIDTH = 900


def write_page(measured: Ablation, file: Path) -> None:
    """Write the page, completely or not at all."""
    page = environment({"fraction": fraction, "points": points, "percent": percent}).get_template("ablation.html.j2")
    tables = [("mAP", measured), *([("Mask mAP", measured.masks)] if measured.masks is not None else [])]
    drawn = [(title, one, gain_chart(one, title)) for title, one in tables]
    replace_text(file, page.render(ablation=measured, about_baseline=LEGEND, tables=drawn))


def gain_chart(measured: Ablation, metric: str = "mAP") -> Chart:
    """One row per variant: each seed's gain, the mean, and its interval; the line at 0 is the baseline."""
    names = list(measured.gains)
    height = ROW_PX * len(names) + 60
    left = 7 + DETAIL_PX * max(map(len, names))
    frame = (left, 10.0, WIDTH - 20.0, height - 50.0)
    ends = [end for gain in measured.gains.values() for end in (gain.low, gain.high, *gain.differences) if end is not None]
    x = AxisScale(*extent([0.0, *(end * 100 for end in ends)], margin=0.06), frame[0], frame[2])
    rows = {name: frame[1] + ROW_PX * (index + 0.5) for index, name in enumerate(names)}
    lines = [Line("zero", f"M{x(0):g},{frame[1]:g}L{x(0):g},{frame[3]:g}", BASELINE)]
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
    return Chart(
        title=f"Gain over the baseline in points of {metric}: {gains}",
        width=WIDTH,
        height=height,
        frame=frame,
        x_ticks=x.ticks(8),
        y_ticks=tuple(Tick(y, name) for name, y in rows.items()),
        x_title=f"gain over the baseline, points of {metric}",
        lines=tuple(lines),
        marks=tuple(marks),
        mark_radius=8,
    )
