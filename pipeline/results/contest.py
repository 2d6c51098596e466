"""What a comparison of methods found, as a value: everything that its table and its page show follows from it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from deploy.contract import Ratio
from pipeline.results.gains import Gain, paired_gain
from pipeline.results.significance import LEVEL, Rank, holm, paired_p, pairwise, ranks

SIZES = ("map_small", "map_medium", "map_large")


@dataclass(frozen=True)
class StepCost:
    """A method's training step: seconds, how many times the plain step's, and what it needs in addition."""

    seconds: float
    ratio: Ratio
    more_bytes: int
    extra_parameters: int


@dataclass(frozen=True)
class Tried:
    """A trial: the share of the gradient that the losses had, and the mAP on the tuning split; None if the training diverged."""

    share: float
    map: float | None


@dataclass(frozen=True)
class Entrant:
    """One way to train the student, trained once per seed.

    maps: mAP at each seed, in the seeds' order. masks: mask mAP, None without masks. sizes, classes: means over the seeds of COCO's mAP
    by the objects' size, and of each class; None if undefined. distill: the section of pipeline.yaml, None without a teacher.
    """

    name: str
    role: Literal["baseline", "method", "control"]
    epochs: int
    maps: tuple[float, ...]
    masks: tuple[float, ...] | None
    sizes: Mapping[str, float | None]
    classes: Mapping[str, float | None]
    distill: Mapping[str, Any] | None = None
    trials: tuple[Tried, ...] = ()
    cost: StepCost | None = None

    @property
    def mean(self) -> float:
        """Mean mAP."""
        return statistics.fmean(self.maps)


@dataclass(frozen=True)
class Contest:
    """Methods against baselines on one split.

    tuning: the seed and the split of the trials; None without trials. teacher, random_teacher: their own mAP. equal_cost: the baseline
    that took as long as the slowest method; None without one. control_method: the method whose losses the control has; None without one.
    left_out: why something has no result, by its name.
    """

    name: str
    split: str
    num_images: int
    seeds: tuple[int, ...]
    tuning: tuple[int, str] | None
    teacher: float | None
    random_teacher: float | None
    baseline: Entrant
    equal_cost: Entrant | None
    methods: tuple[Entrant, ...]
    control: Entrant | None
    control_method: str | None
    left_out: Mapping[str, str]

    @property
    def rival(self) -> Entrant:
        """The baseline that a method has to beat: the one with the higher mean, of equal cost if they are level."""
        return max((one for one in (self.equal_cost, self.baseline) if one is not None), key=lambda one: one.mean)

    @property
    def entrants(self) -> list[Entrant]:
        """All, the methods from the highest mean to the lowest, then the baselines and the control."""
        ordered = sorted(self.methods, key=lambda one: -one.mean)
        return [*ordered, *(one for one in (self.equal_cost, self.baseline, self.control) if one is not None)]

    @property
    def best(self) -> Entrant:
        """The method with the highest mean."""
        return max(self.methods, key=lambda one: one.mean)

    def gain(self, one: Entrant, over: Entrant) -> Gain:
        """The paired gain of one over another."""
        return paired_gain(one.maps, over.maps)

    def corrected(self, over: Entrant) -> dict[str, float | None]:
        """p values of the methods' gains over a baseline, corrected for the number of methods."""
        return holm({one.name: paired_p(one.maps, over.maps) for one in self.methods})

    def ranks(self) -> dict[str, Rank]:
        """The methods' ranks."""
        return ranks(self.maps)

    def level_with(self, one: Entrant) -> list[Entrant]:
        """The other methods that cannot be told from one, from the highest mean to the lowest."""
        told = {frozenset(pair) for pair, p in pairwise(self.maps).items() if _below(p)}
        alike = [other for other in self.methods if other != one and frozenset((one.name, other.name)) not in told]
        return sorted(alike, key=lambda other: -other.mean)

    def proven(self, one: Entrant) -> bool:
        """Whether a method is above the baseline that it has to beat, beyond the interval and after the correction."""
        gain = self.gain(one, self.rival)
        return gain.low is not None and gain.low > 0 and _below(self.corrected(self.rival)[one.name])

    @property
    def maps(self) -> dict[str, Sequence[float]]:
        """The methods' mAP at each seed."""
        return {one.name: one.maps for one in self.methods}


def _below(p: float | None) -> bool:
    return p is not None and p < LEVEL


def figures(contest: Contest) -> dict[str, Any]:
    """For compare.json."""
    found: dict[str, Any] = _plain(asdict(contest))
    places, over = contest.ranks(), {"baseline": contest.baseline, "equal_cost": contest.equal_cost}
    for one, row in zip(contest.methods, found["methods"], strict=True):
        row["rank"] = [places[one.name].best, places[one.name].worst]
        for name, other in over.items():
            gain = None if other is None else contest.gain(one, other)
            row[f"gain_over_{name}"] = None if gain is None else asdict(gain)
            row[f"p_over_{name}"] = None if other is None else contest.corrected(other)[one.name]
    found["pairs"] = [{"methods": [*pair], "p": p} for pair, p in pairwise(contest.maps).items()]
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Ratio):
        return value.model_dump()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
