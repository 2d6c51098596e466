"""compare.html: a comparison of methods in one file that opens offline."""

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.report import environment
from pipeline.report.ablation_page import gain_chart
from pipeline.report.charts import AxisScale, Chart, Label, Line, Mark, extent
from pipeline.report.words import count, fraction, milliseconds, points
from pipeline.results.ablation import BASELINE, Ablation, ablation_of
from pipeline.results.contest import SIZES, Contest, Entrant
from pipeline.results.contest_table import has_masks, megabytes, p_text, ratio_text
from pipeline.results.recommendation import recommend
from pipeline.store.files import replace_text

NARROW, NARROW_ROW = 350, 44
"""Width of the plot on a small screen, px, and the height of a row, which has the name above its marks."""


@dataclass(frozen=True)
class ClassGain:
    """A class: what the baseline and the best method reach, and which method reaches most."""

    name: str
    rival: float | None
    best: float | None
    highest: str | None

    @property
    def gain(self) -> float | None:
        """The best method's lead."""
        return None if self.rival is None or self.best is None else self.best - self.rival


def write_page(contest: Contest, file: Path) -> None:
    """Write the page, completely or not at all."""
    words = {"fraction": fraction, "points": points, "count": count, "milliseconds": milliseconds}
    page = environment(words | {"p": p_text, "times": ratio_text, "megabytes": megabytes}).get_template("contest.html.j2")
    found = against_rival(contest)
    charts = gain_chart(found), narrow_chart(found)
    shown = {"charts": charts, "classes": classes(contest), "sizes": SIZES, "masks": has_masks(contest)}
    replace_text(file, page.render(contest=contest, advice=recommend(contest), **shown))


def against_rival(contest: Contest) -> Ablation:
    """The methods' gains over the baseline that they have to beat, from the highest mean to the lowest."""
    methods = [one for one in contest.entrants if one.role != "baseline"]
    maps = {BASELINE: contest.rival.maps, **{one.name: one.maps for one in methods}}
    return ablation_of((contest.name, contest.split, contest.num_images, contest.seeds), contest.teacher, maps)


def narrow_chart(measured: Ablation) -> Chart:
    """The plot of `gain_chart` for small screens: names above their marks instead of beside them."""
    wide = gain_chart(measured)
    height = NARROW_ROW * len(measured.gains) + 60
    frame = (6.0, 4.0, NARROW - 6.0, height - 50.0)
    ends = [end * 100 for gain in measured.gains.values() for end in (gain.low, gain.high, *gain.differences) if end is not None]
    x = AxisScale(*extent([0.0, *ends], margin=0.06), frame[0], frame[2])
    lines = [Line("zero", f"M{x(0):g},{frame[1]:g}L{x(0):g},{frame[3]:g}", BASELINE)]
    marks: list[Mark] = []
    labels: list[Label] = []
    for index, (name, gain) in enumerate(measured.gains.items()):
        top = frame[1] + NARROW_ROW * index
        y = top + 30
        labels.append(Label("student", frame[0], top + 14, name, ""))
        if gain.low is not None and gain.high is not None:
            lines.append(Line("student", f"M{x(gain.low * 100):g},{y:g}L{x(gain.high * 100):g},{y:g}", name))
        marks += [Mark("seed", x(value * 100), y, name) for value in gain.differences]
        marks.append(Mark("student", x(gain.mean * 100), y, f"{name}: {points(gain.mean)} points on average"))
    shape = replace(wide, width=NARROW, height=height, frame=frame, x_ticks=x.ticks(5), y_ticks=(), mark_radius=6)
    return replace(shape, lines=tuple(lines), marks=tuple(marks), labels=tuple(labels))


def classes(contest: Contest) -> list[ClassGain]:
    """One row per class of the data."""
    best, rival = contest.best, contest.rival
    return [ClassGain(name, value, best.classes[name], _highest(contest.methods, name)) for name, value in rival.classes.items()]


def _highest(methods: tuple[Entrant, ...], name: str) -> str | None:
    known = {one.name: value for one in methods if (value := one.classes[name]) is not None}
    return max(known, key=lambda one: known[one], default=None)
