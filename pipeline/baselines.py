"""What the student is compared with: its network, trained without the teacher."""

from dataclasses import dataclass

from pipeline.store.store import Store
from stages.artifacts import Checkpoint, StepTimes


@dataclass(frozen=True)
class Baselines:
    """The student's network trained without the teacher: for as many steps as the student, and for as long.

    Each is None if the run does without it; if the numbers of epochs are the same, both are one. `left_out` is why there is none at
    equal cost if the run meant to have it.
    """

    equal_steps: Checkpoint | None
    equal_cost: Checkpoint | None = None
    times: StepTimes | None = None
    left_out: str | None = None

    @property
    def by_equal(self) -> dict[str, Checkpoint]:
        """Those that there are, by what is equal to the student's training: "steps", "cost"."""
        both = {"steps": self.equal_steps, "cost": self.equal_cost}
        return {equal: baseline for equal, baseline in both.items() if baseline is not None}

    @property
    def networks(self) -> dict[str, Checkpoint]:
        """The same by their names in summary.json."""
        return {"baseline" if equal == "steps" else f"baseline_equal_{equal}": one for equal, one in self.by_equal.items()}

    @property
    def stronger(self) -> tuple[str, Checkpoint]:
        """The one with the higher mAP, and what it is called."""
        every = self.by_equal
        best = max(every, key=lambda equal: -1.0 if (reached := every[equal].facts.accuracy.map) is None else reached)
        return self.title(best), every[best]

    def title(self, equal: str) -> str:
        """What one is called: what is equal is named if the run has, or meant to have, the one at equal cost."""
        return "baseline" if self.times is None or self.equal_steps == self.equal_cost else f"baseline at equal {equal}"


def stronger(baselines: Baselines, store: Store) -> tuple[str, Checkpoint]:
    """What gates compare with; a dry run takes the baseline at equal cost for the stronger one until all are trained."""
    every = baselines.by_equal
    if all(map(store.has, every.values())):
        return baselines.stronger
    equal, last = [*every.items()][-1]
    return baselines.title(equal), last
