"""A comparison of methods as text for a terminal."""

from collections.abc import Sequence

from deploy.contract import Ratio
from pipeline.results.ablation import interval
from pipeline.results.contest import SIZES, Contest, Entrant
from pipeline.results.gains import Gain
from pipeline.results.recommendation import recommend
from pipeline.results.table import UNDEFINED, grid, number

HEADER = ("network", "rank", "mean map", "points over equal epochs", "points over equal time", "p", "step", "memory")
LEGEND = (
    "rank: as far as differences between pairs are told, Holm's correction; p: of the gain over the {rival}, corrected for all methods",
    "step: times the plain step; memory: what a step needs beyond the plain one; in parentheses: 95% interval over the seeds",
)


def render(contest: Contest) -> str:
    """The recommendation, the table, what is left out, and the lines to paste."""
    advice = recommend(contest)
    seeds, trials = f"{len(contest.seeds)} seeds", ""
    if contest.tuning is not None:
        seed, split = contest.tuning
        trials = f"; strengths were chosen in {len(contest.best.trials)} trials per method at seed {seed} on split {split}"
    judged = f"{seeds}, {contest.num_images} images of split {contest.split}, weights of the last epoch{trials}"
    rival = "baseline, equal time" if contest.equal_cost is not None else "baseline"
    notes = [f"! {name} is left out: {why}" for name, why in contest.left_out.items()]
    legend = [line.format(rival=rival) for line in LEGEND]
    return "\n".join([advice.sentence, "", grid(HEADER, rows(contest)), judged, *legend, *notes, "", advice.lines.rstrip()])


def rows(contest: Contest) -> list[list[str]]:
    """One row per network: the teacher, the methods from the highest mean to the lowest, the baselines, the control."""
    places, p = contest.ranks(), contest.corrected(contest.rival)
    found = [["teacher", UNDEFINED, number(contest.teacher), *[UNDEFINED] * 5]]
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


def size_rows(contest: Contest) -> list[list[str]]:
    """One row per network: its mean mAP for small, medium and large objects."""
    return [[one.name, *(number(one.sizes[size], 3) for size in SIZES)] for one in contest.entrants]
