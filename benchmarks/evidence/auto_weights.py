"""Are weights that are found as good as weights that were chosen by hand? Four pairs, three seeds, the baseline of equal cost beside.

    python benchmarks/evidence/auto_weights.py                     print what has been measured, and the verdict once all is
    python benchmarks/evidence/auto_weights.py run [--study NAME ...] [--seed N ...] [--units N]

A pair is a pipeline file in benchmarks/evidence/auto/. At each seed it trains a baseline, one that takes as long as the distilled
student (by the ratio of the steps' times, measured once on the machine), the student with the file's weights, and the student with
`weight: auto` in their place and the default share. Each training appends one row to <pair>.jsonl and is never repeated; an interrupted
one resumes. All four pairs take five hours or more of one core: pin it with OMP_NUM_THREADS=1 taskset -c 1 ...

The verdict, on split test: on no pair is auto worse than by hand, beyond the 95% interval of Student's t over the seeds, and its mean over
the pairs is above the baseline's, beyond the interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from at_equal_cost import COST, CostedStudy, command, missing
from page import in_points
from run import STUDIES, TEACHER, rows

from pipeline.config import load
from pipeline.results.ablation import BASELINE
from pipeline.results.gains import paired_gain
from stages.config import LossConfig

PAIRS = STUDIES / "auto"
HAND, AUTO = "by hand", "auto"
COMPARED = (BASELINE, COST, HAND, AUTO)
OWN_IMAGES = "own-images"
"""The pair whose teacher is trained on the student's own images, in folds."""

Maps = Mapping[str, Sequence[float]]
"""mAP on split test by role, seed by seed."""


@dataclass(frozen=True)
class WeightPair(CostedStudy):
    """A teacher, a student, and how the losses between them are weighted."""

    @property
    def rows_file(self) -> Path:
        """See Study.rows_file."""
        return PAIRS / f"{self.name}.jsonl"

    @property
    def folds(self) -> int:
        """See Study.folds."""
        return 5 if self.name == OWN_IMAGES else 0

    def roles(self) -> list[str]:
        """See Study.roles."""
        return [TEACHER, *COMPARED]

    def losses(self, role: str) -> tuple[LossConfig, ...]:
        """See Study.losses."""
        given = self.config.distill.losses
        found = tuple(loss.model_copy(update={"weight": "auto"}) for loss in given)
        return {HAND: given, AUTO: found}.get(role, ())


def pairs() -> list[WeightPair]:
    """Every pair in the folder."""
    return [WeightPair(file.stem, load(file)) for file in sorted(PAIRS.glob("*.yaml"))]


def measured(pair: WeightPair) -> Maps | None:
    """The pair's figures; None if a training is missing."""
    found = {(row["role"], row["seed"]): row["test"]["map"] for row in rows(pair)}
    if any(unit not in found for unit in pair.units()):
        return None
    return {role: [found[role, seed] for seed in pair.seeds] for role in COMPARED}


def verdict(found: Mapping[str, Maps]) -> tuple[bool, list[str]]:
    """Whether auto is at least as good, and a line per pair and one for their mean."""
    lines, good = [], True
    for name, maps in found.items():
        against = {other: paired_gain(maps[AUTO], maps[other]) for other in (HAND, BASELINE, COST)}
        worse = against[HAND].high is not None and against[HAND].high < 0
        good = good and not worse
        means = ", ".join(f"{role} {fmean(values):.4f}" for role, values in maps.items())
        gains = ", ".join(f"over {other} {in_points(gain)}" for other, gain in against.items())
        lines.append(f"{name}: {means}; auto {gains}{'; worse than by hand' if worse else ''}")
    mean = {role: [fmean(values) for values in zip(*(maps[role] for maps in found.values()), strict=True)] for role in COMPARED}
    gain = paired_gain(mean[AUTO], mean[BASELINE])
    above = gain.low is not None and gain.low > 0
    lines.append(f"mean of the pairs: auto over {BASELINE} {in_points(gain)}, over {COST} {in_points(paired_gain(mean[AUTO], mean[COST]))}")
    return good and above, lines


def show(studies: Sequence[CostedStudy]) -> None:
    """What has been measured, and the verdict once all is."""
    found = {study.name: maps for study in studies if isinstance(study, WeightPair) and (maps := measured(study)) is not None}
    if found:
        good, lines = verdict(found)
        print("\n".join(lines))
        if not any(missing(studies, [])):
            print("auto is at least as good" if good else "auto is not at least as good")


if __name__ == "__main__":
    command(__doc__, pairs(), show)
