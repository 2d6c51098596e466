"""compare.html: a comparison of methods in one file that opens offline."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.report import environment
from pipeline.report.ablation_page import gain_chart, narrow_chart
from pipeline.report.words import count, fraction, milliseconds, points
from pipeline.results.ablation import BASELINE, Ablation, ablation_of
from pipeline.results.contest import SIZES, Contest, Entrant
from pipeline.results.contest_table import has_masks, megabytes, p_text, ratio_text
from pipeline.results.recommendation import recommend
from pipeline.store.files import replace_text


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


def classes(contest: Contest) -> list[ClassGain]:
    """One row per class of the data."""
    best, rival = contest.best, contest.rival
    return [ClassGain(name, value, best.classes[name], _highest(contest.methods, name)) for name, value in rival.classes.items()]


def _highest(methods: tuple[Entrant, ...], name: str) -> str | None:
    known = {one.name: value for one in methods if (value := one.classes[name]) is not None}
    return max(known, key=lambda one: known[one], default=None)
