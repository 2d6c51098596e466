"""The trainings of a comparison of methods, from the trials to the last seed."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from deploy.errors import Diverged
from pipeline.arena.lineup import Costs, Lineup
from pipeline.arena.sharing import Job
from pipeline.arena.trainings import Arena, indispensable, judged
from pipeline.arena.variants import RANDOM, Variant, untaught, with_share
from pipeline.results.contest import Tried
from stages.artifacts import Checkpoint
from stages.config.compare import parts_of


@dataclass(frozen=True)
class Tuned:
    """A method at the strength that was best in its trials."""

    variant: Variant
    trials: tuple[Tried, ...]

    @property
    def reached(self) -> float:
        """The highest mAP of the trials; 0 if there was none."""
        return max((one.map for one in self.trials if one.map is not None), default=0.0)


@dataclass(frozen=True)
class Bouts:
    """What is trained, and what it is trained in; `tuned` are the choices that were made so far."""

    arena: Arena
    lineup: Lineup
    costs: Costs
    tuned: dict[str, Tuned] = field(default_factory=dict)

    def looking(self, arena: Arena) -> "Bouts":
        """The same trainings, looked up in a different mode."""
        return replace(self, arena=arena, tuned=dict(self.tuned))

    def jobs(self) -> Iterator[Job]:
        """Everything, in an order in which what others wait for comes first; seeds one by one, so that pairs are complete early."""
        yield self.arena.teacher
        for number, share in enumerate(self.lineup.tried):
            yield from (partial(self._try_out, method, share, number) for method in self.lineup.methods)
        for seed in self.lineup.seeds:
            yield from (partial(self.train_baseline, baseline, seed) for baseline in self.costs.baselines())
            yield from (partial(self.train, method, seed) for method in self.lineup.methods)
            yield partial(self.train_control, seed)

    def train_baseline(self, baseline: Variant, seed: int) -> Checkpoint:
        """A student without a teacher.

        Raises:
            ArtifactError: it diverged.
        """
        with indispensable():
            return self.arena.train(baseline, seed)

    def train(self, method: Variant, seed: int) -> Checkpoint:
        """A method at the strength that its trials chose.

        Raises:
            Diverged: it cannot be trained, or none of its trials could.
        """
        return self.arena.train(self.tune(method).variant, seed)

    def train_control(self, seed: int) -> Checkpoint:
        """The leading method, at its strength, with a teacher that knows nothing.

        Raises:
            Diverged: it cannot be trained.
        """
        return self.arena.train(self.control(), seed)

    def control(self) -> Variant:
        """The control, once the trials are done.

        Raises:
            Diverged: no method can be trained.
        """
        leading = self.tune(self.leader()).variant
        assert leading.distill is not None
        return replace(leading, name=RANDOM, teacher="random", distill=untaught(leading.distill))

    def leader(self) -> Variant:
        """The method that the file names for the control, or the one that leads in the trials; the first one without trials.

        Raises:
            Diverged: no method can be trained.
        """
        named = self.arena.config.compare.control
        if named is not None:
            return next(one for one in self.lineup.methods if set(parts_of(one.name)) == set(parts_of(named)))
        found: dict[str, float] = {}
        why: Diverged | None = None
        for method in self.lineup.methods:
            try:
                found[method.name] = self.tune(method).reached
            except Diverged as error:
                why = error
        if not found:
            assert why is not None
            raise why
        leading = max(found, key=lambda name: found[name])
        return next(one for one in self.lineup.methods if one.name == leading)

    def tune(self, method: Variant) -> Tuned:
        """A method at its best strength on the tuning split; of equal ones, the first.

        Raises:
            Diverged: every trial did.
        """
        if method.name not in self.tuned:
            self.tuned[method.name] = self._tune(method)
        return self.tuned[method.name]

    def _tune(self, method: Variant) -> Tuned:
        if not self.lineup.tried:
            return Tuned(with_share(method, self.lineup.shares[0]), ())
        trials, why = [], None
        for number, share in enumerate(self.lineup.tried):
            try:
                trials.append(Tried(share, judged(self._try_out(method, share, number))))
            except Diverged as error:
                trials.append(Tried(share, None))
                why = error
        reached = [one for one in trials if one.map is not None]
        if not reached:
            assert why is not None
            raise Diverged(f"every trial diverged; the last one: {why}")
        best = max(reached, key=lambda one: one.map or 0.0)
        return Tuned(with_share(method, best.share), tuple(trials))

    def _try_out(self, method: Variant, share: float, number: int) -> Checkpoint:
        return self.arena.try_out(with_share(method, share), self.lineup.tuning_seed, f"trial {number + 1}")
