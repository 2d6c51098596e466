"""Studies with a baseline that takes as long as the distilled student: their trainings, one row each, and their command line."""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from imagenet_start import fetch_imagenet_start
from run import RUNS, TEACHER, Study, data, digest, kept_row, rows, run
from turns import alone

from deploy.errors import Diverged
from pipeline.results.ablation import BASELINE
from pipeline.store.store import Store
from stages.artifacts import WEIGHTS
from stages.config import TrainConfig
from stages.config.baseline import stretched
from stages.time_steps import step_options, time_steps

COST = "baseline, equal cost"


@dataclass(frozen=True)
class CostedStudy(Study):
    """A pipeline file, trained at three seeds."""

    @property
    def folds(self) -> int:
        """See Study.folds."""
        return 0

    @property
    def seeds(self) -> range:
        """See Study.seeds."""
        return range(3)

    def training(self, role: str) -> TrainConfig:
        """See Study.training."""
        if role == COST:
            known = next((row["epochs"] for row in rows(self) if row["role"] == COST), None)
            train = self.config.student.train
            return stretched(self.config.student, self.ratio()).train if known is None else train.model_copy(update={"epochs": known})
        return self.config.teacher.train if role == TEACHER else self.config.student.train

    def ratio(self) -> float:
        """How many times as long as a plain step a distilled one takes, measured on this machine for the study's first such baseline."""
        config, store = self.config, Store(RUNS, self.config.name)
        options = step_options(config.distill, config.student, config.teacher)
        return store.run(time_steps, *options, config.device, data(self, BASELINE, 0)).facts.ratio.ratio

    def other_images(self, role: str) -> bool:
        """See Study.other_images."""
        return False


def missing(studies: Sequence[CostedStudy], seeds: Sequence[int]) -> Iterator[tuple[CostedStudy, str, int]]:
    """The trainings without a row, study by study; no seeds are all."""
    for study in studies:
        done = {(row["role"], row["seed"]) for row in rows(study)}
        for role, seed in study.units():
            if (not seeds or seed in seeds) and (role, seed) not in done:
                yield study, role, seed


def work(studies: Sequence[CostedStudy], seeds: Sequence[int], units: int) -> None:
    """Run the missing trainings, at most `units` of them; a teacher whose weights are gone is trained again without a second row.

    A teacher that a study of benchmarks/evidence/run.py or one of these has trained on this machine is not trained again, if its row is
    beside its weights. Rows of students say what their teacher reaches (`teacher_map`), as far as it has such a row. A student that
    diverges is reported and left out; the next call tries again.

    Raises:
        Diverged: a teacher did.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    fetch_imagenet_start()
    for number, (study, role, seed) in enumerate(list(missing(studies, seeds))):
        if number == units:
            return
        if study.losses(role) and not has_teacher(study, seed):
            run(study, TEACHER, study.teacher_seed(seed))
        known = kept_row(study, TEACHER, seed) if role == TEACHER and has_teacher(study, seed) else None
        try:
            row = run(study, role, seed) if known is None else {**known, "study": study.name}
        except Diverged as error:
            if role == TEACHER:
                raise
            print(error, flush=True)
            continue
        with study.rows_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def has_teacher(study: CostedStudy, seed: int) -> bool:
    """Whether the weights of the teacher are on this machine."""
    return (RUNS / digest(study, TEACHER, study.teacher_seed(seed)) / WEIGHTS).exists()


def command(
    description: str | None,
    studies: Sequence[CostedStudy],
    show: Callable[[Sequence[CostedStudy]], None],
    write: Callable[[], None] | None = None,
) -> None:
    """The command line of a script: `run` trains, `page` is `write`, if any, otherwise `show` prints what has been measured."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("show", "run", *(["page"] if write else [])), default="show")
    parser.add_argument("--study", nargs="+", default=[], choices=[study.name for study in studies])
    parser.add_argument("--seed", nargs="+", type=int, default=[])
    parser.add_argument("--units", type=int, default=-1, help="stop after N trainings (default: no limit)")
    args = parser.parse_args()
    if args.action == "show":
        left = sum(1 for _ in missing(studies, []))
        print(f"{left} trainings are missing" if left else "every training is measured")
        show(studies)
        return
    if args.action == "page" and write is not None:
        write()
        return
    with alone(RUNS):
        work([study for study in studies if not args.study or study.name in args.study], args.seed, args.units)
