"""Networks that had not finished learning when their training ended, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.comparison.learning_curve import LearningCurve, still_rising
from deploy.contract import LastFifth
from pipeline.results.summary import NETWORKS

LONGER = {
    "teacher": "longer training may make it teach more",
    "student": "longer training may raise the gain",
}
BASELINE = "longer training may close part of the gain"


@dataclass(frozen=True)
class Learner:
    """A trained network with its curve: `series` is its name in summary.json, `name` what people call it."""

    series: str
    name: str
    curve: LearningCurve

    @property
    def is_baseline(self) -> bool:
        """Whether gains are measured from it."""
        return self.series.startswith("baseline")

    @property
    def rising(self) -> LastFifth | None:
        """What its last fifth gave, if mAP was still rising."""
        return self.curve.last_fifth if still_rising(self.curve.last_fifth) else None


def learners(summary: Mapping[str, Any]) -> list[Learner]:
    """The networks that have a curve; a baseline that has two names comes once, under the first."""
    found: dict[str, Learner] = {}
    for series in NETWORKS:
        figures = summary[series]
        if figures is None or figures["curve"] is None:
            continue
        if series.startswith("baseline") and any(one.is_baseline and summary[one.series] == figures for one in found.values()):
            continue
        curve = LearningCurve.model_validate({key: value for key, value in figures["curve"].items() if key != "still_rising"})
        found[series] = Learner(series, called(series), curve)
    return list(found.values())


def called(series: str) -> str:
    """What people call a network of the summary, within a sentence."""
    return series.replace("_equal_", " at equal ").replace("_", " ")


def rising_lines(summary: Mapping[str, Any]) -> list[str]:
    """One line for each network whose mAP was still rising, for a terminal."""
    return [_line(one, one.rising) for one in learners(summary) if one.rising is not None]


def _line(one: Learner, gave: LastFifth) -> str:
    figures = f"{gave.gain:+.3f} map ({gave.low:+.3f} to {gave.high:+.3f}, on {gave.num_images} images)"
    advice = BASELINE if one.is_baseline else LONGER.get(one.series, "longer training may raise its mAP")
    return f"{one.name}: still rising when its training ended: the last fifth gave {figures}; {advice}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
