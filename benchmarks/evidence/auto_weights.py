"""Are weights that are found as good as weights that were chosen by hand? Four pairs, three seeds, the baseline of equal cost beside.

    python benchmarks/evidence/auto_weights.py                     print what has been measured, and the verdict once all is
    python benchmarks/evidence/auto_weights.py run [--pair NAME ...] [--seed N ...] [--units N]

A pair is a pipeline file in benchmarks/evidence/auto/. At each seed it trains a baseline, one that takes as long as the distilled
student (by the ratio of the steps' times, measured once on the machine), the student with the file's weights, and the student with
`weight: auto` in their place and the default share. Each training appends one row to <pair>.jsonl and is never repeated; an interrupted
one resumes. All four pairs take five hours or more of one core: pin it with OMP_NUM_THREADS=1 taskset -c 1 ...

The verdict, on split test: on no pair is auto worse than by hand, beyond the 95% interval of Student's t over the seeds, and its mean over
the pairs is above the baseline's, beyond the interval.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from filelock import FileLock, Timeout
from imagenet_start import fetch_imagenet_start
from run import RUNS, STUDIES, TEACHER, Study, data, digest, elsewhere, rows, run

from pipeline.config import load
from pipeline.results.ablation import BASELINE
from pipeline.results.gains import Gain, paired_gain
from pipeline.store.store import Store
from stages.artifacts import WEIGHTS
from stages.config import LossConfig, TrainConfig
from stages.config.baseline import stretched
from stages.time_steps import step_options, time_steps

PAIRS = STUDIES / "auto"
COST, HAND, AUTO = "baseline, equal cost", "by hand", "auto"
COMPARED = (BASELINE, COST, HAND, AUTO)
OWN_IMAGES = "own-images"
"""The pair whose teacher is trained on the student's own images, in folds."""

Maps = Mapping[str, Sequence[float]]
"""mAP on split test by role, seed by seed."""


@dataclass(frozen=True)
class WeightPair(Study):
    """A teacher, a student, and how the losses between them are weighted."""

    @property
    def rows_file(self) -> Path:
        """See Study.rows_file."""
        return PAIRS / f"{self.name}.jsonl"

    @property
    def folds(self) -> int:
        """See Study.folds."""
        return 5 if self.name == OWN_IMAGES else 0

    @property
    def seeds(self) -> range:
        """See Study.seeds."""
        return range(3)

    def roles(self) -> list[str]:
        """See Study.roles."""
        return [TEACHER, *COMPARED]

    def losses(self, role: str) -> tuple[LossConfig, ...]:
        """See Study.losses."""
        given = self.config.distill.losses
        found = tuple(loss.model_copy(update={"weight": "auto"}) for loss in given)
        return {HAND: given, AUTO: found}.get(role, ())

    def training(self, role: str) -> TrainConfig:
        """See Study.training."""
        if role == COST:
            return stretched(self.config.student, self.ratio()).train
        return self.config.teacher.train if role == TEACHER else self.config.student.train

    def ratio(self) -> float:
        """How many times as long as a plain step a distilled one takes, measured once."""
        config, store = self.config, Store(RUNS, self.config.name)
        options = step_options(config.distill, config.student, config.teacher)
        return store.run(time_steps, *options, config.device, data(self, BASELINE, 0)).facts.ratio.ratio

    def other_images(self, role: str) -> bool:
        """See Study.other_images."""
        return False


def pairs() -> list[WeightPair]:
    """Every pair in the folder."""
    return [WeightPair(file.stem, load(file)) for file in sorted(PAIRS.glob("*.yaml"))]


def missing(chosen: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[WeightPair, str, int]]:
    """The trainings without a row, pair by pair; empty choices are all."""
    for pair in pairs():
        done = {(row["role"], row["seed"]) for row in rows(pair)}
        for role, seed in pair.units():
            if (not chosen or pair.name in chosen) and (not seeds or seed in seeds) and (role, seed) not in done:
                yield pair, role, seed


def work(args: argparse.Namespace) -> None:
    """Run the missing trainings, at most `--units` of them; a teacher whose weights are gone is trained again without a second row.

    One that a study of benchmarks/evidence/run.py has trained on this machine is not trained again.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    fetch_imagenet_start()
    for number, (pair, role, seed) in enumerate(list(missing(args.pair, args.seed))):
        if number == args.units:
            return
        if pair.losses(role) and not has_teacher(pair, seed):
            run(pair, TEACHER, pair.teacher_seed(seed))
        same = elsewhere(pair, role, seed) if role == TEACHER and has_teacher(pair, seed) else None
        row = same or run(pair, role, seed)
        with pair.rows_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def has_teacher(pair: WeightPair, seed: int) -> bool:
    """Whether the weights of the teacher are on this machine."""
    return (RUNS / digest(pair, TEACHER, pair.teacher_seed(seed)) / WEIGHTS).exists()


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
        gains = ", ".join(f"over {other} {_points(gain)}" for other, gain in against.items())
        lines.append(f"{name}: {means}; auto {gains}{'; worse than by hand' if worse else ''}")
    mean = {role: [fmean(values) for values in zip(*(maps[role] for maps in found.values()), strict=True)] for role in COMPARED}
    gain = paired_gain(mean[AUTO], mean[BASELINE])
    above = gain.low is not None and gain.low > 0
    lines.append(f"mean of the pairs: auto over {BASELINE} {_points(gain)}, over {COST} {_points(paired_gain(mean[AUTO], mean[COST]))}")
    return good and above, lines


def _points(gain: Gain) -> str:
    interval = "" if gain.low is None or gain.high is None else f" ({gain.low * 100:+.2f} to {gain.high * 100:+.2f})"
    return f"{gain.mean * 100:+.2f}{interval}"


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("show", "run"), default="show")
    known = pairs()
    parser.add_argument("--pair", nargs="+", default=[], choices=[pair.name for pair in known])
    parser.add_argument("--seed", nargs="+", type=int, default=[])
    parser.add_argument("--units", type=int, default=-1, help="stop after N trainings (default: no limit)")
    args = parser.parse_args()
    if args.action == "run":
        RUNS.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(RUNS / "lock").acquire(timeout=0):
                work(args)
        except Timeout:
            parser.error(f"{RUNS / 'lock'}: a different process is training; wait until it has ended")
        return
    found = {pair.name: maps for pair in known if (maps := measured(pair)) is not None}
    left = sum(1 for _ in missing([], []))
    print(f"{left} trainings are missing" if left else "every training is measured")
    if found:
        good, lines = verdict(found)
        print("\n".join(lines))
        if not left:
            print("auto is at least as good" if good else "auto is not at least as good")


if __name__ == "__main__":
    main()
