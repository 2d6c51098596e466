"""What to train after a comparison: one sentence, and the lines of pipeline.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline.results.contest import Contest, Entrant
from pipeline.results.gains import Gain
from pipeline.results.learning import listed
from pipeline.results.significance import LEVEL, paired_p

_NAMED = 3
"""How many of the methods that are level with the recommended one a sentence names."""


@dataclass(frozen=True)
class Recommendation:
    """`proven`: whether a method is above the baseline that it has to beat. `lines`: the part of pipeline.yaml to paste."""

    sentence: str
    lines: str
    proven: bool


def recommend(contest: Contest) -> Recommendation:
    """The method with the highest mean among those that are proven to be above the baseline; the baseline if none is."""
    rival = contest.rival
    proven = [one for one in contest.methods if contest.proven(one)]
    best = max(proven, key=lambda one: one.mean) if proven else contest.best
    won = f"gains {_points(contest.gain(best, rival))} over {_title(contest, rival)}"
    if proven:
        sentence = f"Train with {best.name}: it {won}{_level(contest, best)}{_control(contest, best)}."
        return Recommendation(sentence, _yaml({"distill": best.distill or {}}), proven=True)
    how = f"for {rival.epochs} epochs without a teacher"
    highs = [contest.gain(one, rival).high for one in contest.methods]
    if all(high is not None and high < 0 for high in highs):
        sentence = f"Train {how}: every method is below that, and the best of them, {best.name}, {won}{_behind(contest)}."
    else:
        few = f"no method is proven to be above that; the best of them, {best.name}, {won}"
        sentence = f"Train {how}, or compare with more seeds: {few}{_behind(contest)}."
    return Recommendation(sentence, _yaml({"student": {"train": {"epochs": rival.epochs}}}), proven=False)


def _title(contest: Contest, rival: Entrant) -> str:
    return "the baseline that trains for as long" if rival is contest.equal_cost else "the baseline of as many epochs"


def _points(gain: Gain) -> str:
    ends = "" if gain.low is None or gain.high is None else f" ({gain.low * 100:+.1f} to {gain.high * 100:+.1f})"
    return f"{gain.mean * 100:+.1f} points{ends}"


def _level(contest: Contest, best: Entrant) -> str:
    level = contest.level_with(best)
    if not level:
        others = [one for one in contest.methods if one != best]
        return ", and every other method is behind it" if others and all(one.mean < best.mean for one in others) else ""
    more = [f"{len(level) - _NAMED} more"] if len(level) > _NAMED else []
    names = listed([*(one.name for one in level[:_NAMED]), *more])
    cheaper = min((one for one in level if one.cost is not None), key=_ratio, default=None)
    saves = cheaper is not None and best.cost is not None and _ratio(cheaper) < 0.9 * _ratio(best)
    hint = f", of which {cheaper.name} has the fastest step" if saves and cheaper is not None else ""
    return f"; {names} cannot be told from it{hint}"


def _ratio(one: Entrant) -> float:
    assert one.cost is not None
    return one.cost.ratio.ratio


def _control(contest: Contest, best: Entrant) -> str:
    """That a random teacher does as well or better, if it does."""
    control = contest.control
    if control is None:
        return ""
    p = paired_p(best.maps, control.maps)
    if p is None or p >= LEVEL:
        either = " either" if contest.level_with(best) else ""
        return f"; a random teacher cannot be told from it{either}, so the gain may come from regularization"
    return "" if best.mean > control.mean else "; a random teacher gives more, so the gain does not come from what the teacher knows"


def _behind(contest: Contest) -> str:
    """That the teacher is no better than its students' baseline, if so."""
    if contest.teacher is None or contest.teacher > contest.baseline.mean:
        return ""
    return "; the teacher is not better than the baseline of as many epochs: there is nothing to learn from it"


def _yaml(section: Mapping[str, Any]) -> str:
    return yaml.safe_dump(section, sort_keys=False, allow_unicode=True, width=120)
