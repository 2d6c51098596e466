"""A comparison of methods as text for a terminal."""

import statistics
from collections.abc import Sequence

from deploy.contract import Ratio
from pipeline.results.ablation import interval
from pipeline.results.contest import Contest, Entrant
from pipeline.results.gains import Gain
from pipeline.results.recommendation import recommend
from pipeline.results.table import UNDEFINED, grid, number

HEADER = ("network", "rank", "mean map", "gain at equal steps", "gain at equal cost", "p", "step", "memory")
LEGEND = (
    "gain: points, 95% interval over the seeds; p: of the gain over the {rival}; rank: from all pairs; both with Holm's correction",
    "step: times the plain step; memory: what a step needs beyond the plain one",
)


def render(contest: Contest) -> str:
    """The recommendation, the table, what is left out, and the lines to paste."""
    advice = recommend(contest)
    seeds, trials = f"{len(contest.seeds)} seeds", ""
    if contest.tuning is not None:
        seed, split = contest.tuning
        trials = f"; strengths were chosen in {len(contest.best.trials)} trials per method at seed {seed} on split {split}"
    judged = f"{seeds}, {contest.num_images} images of split {contest.split}, weights of the last epoch{trials}"
    notes = [f"! {name} is left out: {why}" for name, why in contest.left_out.items()]
    legend = [line.format(rival=contest.rival.name) for line in LEGEND]
    return "\n".join([advice.sentence, "", grid(header(contest), rows(contest)), judged, *legend, *notes, "", advice.lines.rstrip()])


def header(contest: Contest) -> tuple[str, ...]:
    """The titles of the columns of `rows`; with the mean mask mAP last if all methods have masks."""
    return (*HEADER, "mean mask_map") if has_masks(contest) else HEADER


def has_masks(contest: Contest) -> bool:
    """Whether every network of a student was judged by its masks too."""
    return all(one.masks is not None for one in contest.entrants)


def rows(contest: Contest) -> list[list[str]]:
    """One row per network: the teacher, the methods from the highest mean to the lowest, the baselines, the control."""
    places, p = contest.ranks(), contest.corrected(contest.rival)
    found = [["teacher", UNDEFINED, number(contest.teacher), *[UNDEFINED] * (len(header(contest)) - 3)]]
    for one in contest.entrants:
        is_method = one.role == "method"
        rivals = contest.baseline, contest.equal_cost
        over = [UNDEFINED if other is None or other is one else points(contest.gain(one, other)) for other in rivals]
        told = p[one.name] if is_method else None
        found.append(
            [
                one.name,
                str(places[one.name]) if is_method else UNDEFINED,
                number(one.mean),
                *over,
                UNDEFINED if told is None else p_text(told),
                *_cost(one),
                *([number(statistics.fmean(one.masks))] if has_masks(contest) and one.masks is not None else []),
            ]
        )
    return found


def points(gain: Gain) -> str:
    """A gain in points, with its interval."""
    return f"{gain.mean * 100:+.2f} ({interval(gain)})" if gain.low is not None else f"{gain.mean * 100:+.2f}"


def p_text(p: float) -> str:
    """A p value with two digits."""
    return "<0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def ratio_text(ratio: Ratio) -> str:
    """How many times as long a step takes."""
    return f"{ratio.ratio:.2f}x"


def megabytes(count: int) -> str:
    """A signed number of bytes."""
    return f"{count / 1e6:+.1f} MB"


def _cost(one: Entrant) -> Sequence[str]:
    return (UNDEFINED, UNDEFINED) if one.cost is None else (ratio_text(one.cost.ratio), megabytes(one.cost.more_bytes))
