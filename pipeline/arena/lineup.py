"""What a comparison trains: methods, seeds, trials; how many trainings these are, and about how many minutes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deploy.errors import ConfigError
from pipeline.arena.variants import EQUAL_COST, Variant, method, shares
from pipeline.config import PipelineConfig
from pipeline.results.ablation import BASELINE
from stages.config import StudentConfig, stretched
from stages.config.compare import parts_of
from stages.facts import DatasetFacts, StepTimeFacts

FEWEST_SEEDS, FEWEST_METHODS = 3, 2
"""What --minutes leaves at least, unless there are fewer."""

TUNING_SEED = 1000
"""Added to the file's seed for trials: above every seed that takes part in a result."""

FORWARD = 1 / 3
"""What judging an image costs, as a share of training on it."""


@dataclass(frozen=True)
class Lineup:
    """The trainings of a comparison; `shares` are the strengths that each method is tried with, a single one is used untried."""

    methods: tuple[Variant, ...]
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    tuning_seed: int

    @property
    def tried(self) -> tuple[float, ...]:
        """The strengths that are trained to choose one; none if there is no choice."""
        return self.shares if len(self.shares) > 1 else ()

    def cut(self, methods: int, seeds: int) -> "Lineup":
        """The first methods and seeds."""
        return replace(self, methods=self.methods[:methods], seeds=self.seeds[:seeds])


def lineup(config: PipelineConfig, names: Sequence[str], seeds: int) -> Lineup:
    """The methods of these names at the file's seed and those after it."""
    return Lineup(
        methods=tuple(method(config, name) for name in names),
        seeds=tuple(range(config.seed, config.seed + seeds)),
        shares=shares(config.distill.share, config.compare.trials),
        tuning_seed=(config.seed + TUNING_SEED) % 2**32,
    )


@dataclass(frozen=True)
class Portion:
    """A part of the work: a number of trainings, and the estimate for all of them."""

    name: str
    trainings: int
    minutes: float


@dataclass(frozen=True)
class Costs:
    """The measured steps of each method, and how many images a training and a judgment read."""

    config: PipelineConfig
    times: Mapping[str, StepTimeFacts]
    num_train: int
    num_judged: int

    @classmethod
    def of(cls, config: PipelineConfig, facts: DatasetFacts, times: Mapping[str, StepTimeFacts]) -> "Costs":
        """From the data set's facts."""
        return cls(config, times, facts.splits["train"].num_images, facts.splits[config.validation.split].num_images)

    def only(self, field: Lineup) -> "Costs":
        """Those of a lineup's methods: whatever is left out makes no baseline longer."""
        return replace(self, times={one.name: self.times[one.name] for one in field.methods})

    @property
    def plain_s(self) -> float:
        """Seconds of a plain step: the median of what was measured next to each method's."""
        every = sorted(one.plain_s for one in self.times.values())
        return every[len(every) // 2]

    @property
    def ratio(self) -> float:
        """How many times as long the slowest method's step takes: the baseline of equal cost gets as much time as that."""
        return max(one.ratio.ratio for one in self.times.values())

    def longer(self) -> StudentConfig:
        """The student's training for as long as the slowest method's."""
        return stretched(self.config.student, self.ratio)

    def why_no_longer(self) -> str | None:
        """Why there is no baseline of equal cost; None if there is one."""
        if self.config.baseline.equal == "steps":
            return "baseline.equal is steps"
        longer = self.longer()
        return self.config.baseline.why_left_out(longer.train.epochs, self.plain_s * longer.train.num_steps(self.num_train))

    def seconds(self, variant: Variant) -> float:
        """The estimate for one training of a variant, with its judgment."""
        own = self.times[variant.name].ratio.ratio if variant.name in self.times else self.ratio
        steps = variant.student.train.num_steps(self.num_train) * (1.0 if variant.distill is None else own)
        judging = FORWARD * self.num_judged / min(variant.student.train.batch_size, self.num_train)
        return self.plain_s * (steps + judging)

    def baselines(self) -> tuple[Variant, ...]:
        """The student without a teacher for as many epochs and, unless that is the same or left out, for as long."""
        plain, longer = Variant(BASELINE, self.config.student), Variant(EQUAL_COST, self.longer())
        return (plain,) if self.why_no_longer() is not None or longer.student == plain.student else (plain, longer)

    def portions(self, field: Lineup) -> list[Portion]:
        """The parts of the work with their estimates, as if nothing were in the store."""
        seeds, tried = len(field.seeds), len(field.tried)
        each = [self.seconds(one) for one in field.methods]
        without = [self.seconds(one) for one in self.baselines()]
        counted = [
            ("teacher", self._teachers(), self.teacher_s()),
            ("trials", len(each) * tried, sum(each) * tried),
            ("baselines", len(without) * seeds, sum(without) * seeds),
            ("methods", len(each) * seeds, sum(each) * seeds),
            ("random teacher", seeds, max(each) * seeds),
        ]
        return [Portion(name, count, seconds / 60) for name, count, seconds in counted if count]

    def minutes(self, field: Lineup) -> float:
        """The estimate for everything, in one process."""
        return sum(portion.minutes for portion in self.portions(field))

    def fitting(self, field: Lineup, minutes: float) -> Lineup:
        """As many methods, and then seeds, as fit; methods at the end of the list are left out first.

        Raises:
            ConfigError: not even two methods at three seeds fit.
        """
        least = min(FEWEST_METHODS, len(field.methods)), min(FEWEST_SEEDS, len(field.seeds))
        for methods in range(len(field.methods), least[0] - 1, -1):
            for seeds in range(len(field.seeds), least[1] - 1, -1):
                cut = field.cut(methods, seeds)
                if self.only(cut).minutes(cut) <= minutes:
                    return cut
        smallest_field = field.cut(*least)
        needed = math.ceil(self.only(smallest_field).minutes(smallest_field))
        smallest = f"{least[0]} method{'s' if least[0] > 1 else ''} at {least[1]} seeds take about {needed} minutes"
        raise ConfigError(f"--minutes {minutes:g}: {smallest}; pass {needed} or more, or lower compare.trials or student.train.epochs")

    def _teachers(self) -> int:
        teacher = self.config.teacher
        first = teacher.from_unlabelled is not None and teacher.from_unlabelled.labels == "first"
        return 0 if teacher.weights is not None else 2 if first else 1

    def teacher_s(self) -> float:
        """Of all teachers: from a forward pass, which the distilled steps contain; a training step takes about three times as long."""
        if not (count := self._teachers()):
            return 0.0
        train, batch = self.config.teacher.train, self.config.student.train.batch_size
        forward = self.plain_s * max(0.0, min(one.ratio.ratio for one in self.times.values()) - 1)
        own = self.config.teacher.from_unlabelled
        more = 0.0 if own is None else own.ratio
        return train.num_steps(self.num_train) * forward / FORWARD * train.batch_size / batch * (count + more)


def cheapest_first(field: Lineup, own: int, times: Mapping[str, StepTimeFacts]) -> Lineup:
    """The first `own` methods as they are, then the others by the time of their steps: what --minutes leaves out comes last."""
    others = sorted(field.methods[own:], key=lambda one: times[one.name].ratio.ratio)
    return replace(field, methods=(*field.methods[:own], *others))


def control_first(field: Lineup, control: str | None) -> Lineup:
    """The method of compare.control first, so that --minutes does not leave it out; then the others as they are."""
    if control is None:
        return field
    return replace(field, methods=tuple(sorted(field.methods, key=lambda one: set(parts_of(one.name)) != set(parts_of(control)))))
