"""How far a comparison has come, whichever processes train: one line per variant, one sign per training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from deploy.errors import ArtifactError, Diverged
from pipeline.arena.bouts import Bouts
from pipeline.arena.trainings import Arena, Call
from pipeline.arena.variants import Variant, with_share
from pipeline.results.table import grid
from pipeline.store.keys import lock_of, scratch_of
from pipeline.store.stamp import stamped
from pipeline.store.store import Mode

State = Literal["done", "running", "stopped", "waiting", "diverged"]

SIGNS: dict[State, str] = {"done": "#", "running": ">", "stopped": "/", "waiting": ".", "diverged": "x"}
LEGEND = ", ".join(f"{sign} {state}" for state, sign in SIGNS.items())


@dataclass(frozen=True)
class Lane:
    """The trainings of one variant: its trials and its seeds, each with the estimate of its seconds."""

    name: str
    trials: tuple[State, ...]
    seeds: tuple[State, ...]
    seconds: float


@dataclass(frozen=True)
class Scoreboard:
    """All trainings. The teacher is the first lane."""

    lanes: tuple[Lane, ...]

    @property
    def states(self) -> list[State]:
        """Every training's."""
        return [state for lane in self.lanes for state in (*lane.trials, *lane.seeds)]

    @property
    def minutes_left(self) -> float:
        """The estimate for what is left, divided among the processes that are running; of one if none is."""
        left = sum(lane.seconds for lane in self.lanes for state in (*lane.trials, *lane.seeds) if state not in ("done", "diverged"))
        return left / 60 / max(1, self.states.count("running"))

    def line(self) -> str:
        """The state in a line."""
        states = self.states
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("running", "stopped", "diverged") if state in states)
        left = f", about {self.minutes_left:.0f} min left" if states.count("done") + states.count("diverged") < len(states) else ""
        return f"{states.count('done')} of {len(states)} trainings done{', ' if counts else ''}{counts}{left}"

    def render(self) -> str:
        """The line, and a sign for every training."""
        rows = [[lane.name, _signs(lane.trials), _signs(lane.seeds)] for lane in self.lanes]
        return "\n".join([grid(("network", "trials", "seeds"), rows), LEGEND, self.line()])


def scoreboard(bouts: Bouts) -> Scoreboard:
    """Look at every training; nothing is run."""
    seen = bouts.looking(bouts.arena.looking(Mode(dry=True)))
    return Scoreboard(tuple(_lanes(seen)))


def _signs(states: tuple[State, ...]) -> str:
    return "".join(SIGNS[state] for state in states) or "-"


def _lanes(bouts: Bouts) -> Iterator[Lane]:
    arena, field, costs = bouts.arena, bouts.lineup, bouts.costs
    if costs.config.teacher.weights is None:
        yield Lane("teacher", (), (_state(arena.teacher().root),), costs.teacher_s())
    for one in costs.baselines():
        yield Lane(one.name, (), tuple(_of(arena, arena.call(one, seed)) for seed in field.seeds), costs.seconds(one))
    for one in field.methods:
        trials = [_of(arena, arena.call(with_share(one, share), field.tuning_seed, trial=True)) for share in field.tried]
        yield Lane(one.name, tuple(trials), _seeds(bouts, partial(_tuned, bouts, one)), costs.seconds(one))
    slowest = max(map(costs.seconds, field.methods))
    yield Lane("random teacher", (), _seeds(bouts, bouts.control), slowest)


def _tuned(bouts: Bouts, method: Variant) -> Variant:
    return bouts.tune(method).variant


def _seeds(bouts: Bouts, chosen: Callable[[], Variant]) -> tuple[State, ...]:
    """Waiting as long as the trials are not done."""
    every: State
    try:
        variant = chosen()
    except Diverged:
        every = "diverged"
    except ArtifactError:  # a trial that has not been trained has no figures
        every = "waiting"
    else:
        return tuple(_of(bouts.arena, bouts.arena.call(variant, seed)) for seed in bouts.lineup.seeds)
    return (every,) * len(bouts.lineup.seeds)


def _of(arena: Arena, call: Call) -> State:
    return "diverged" if arena.note(call).exists() else _state(arena.path(call))


def _state(path: Path) -> State:
    if stamped(path) is not None:
        return "done"
    if lock_of(path).exists():
        try:
            with FileLock(lock_of(path), timeout=0):
                pass
        except Timeout:
            return "running"
    return "stopped" if scratch_of(path).exists() else "waiting"
