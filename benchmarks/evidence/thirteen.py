"""Does distillation help every kind of detector? Thirteen kinds as students, three seeds, losses and weights that nobody has tuned.

    python benchmarks/evidence/thirteen.py                     print what has been measured: a table and one line of JSON
    python benchmarks/evidence/thirteen.py run [--study KIND ...] [--seed N ...] [--units N]

A kind is a pipeline file in benchmarks/evidence/thirteen/. Each student sees 16,000 images, 50 different ones; one teacher serves the
dense kinds, one those with proposals, one those with masks. At each seed a baseline and a distilled student are trained, at seed 0
also a baseline that takes as long as the student, by the ratio of the steps' times. Each training appends one row to <kind>.jsonl and
is never repeated; an interrupted one resumes. All of them take some ten hours of one core: pin it with OMP_NUM_THREADS=1 taskset -c 1 ...
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from at_equal_cost import COST, CostedStudy, command, points
from run import STUDIES, TEACHER, rows

from pipeline.config import load
from pipeline.results.ablation import BASELINE
from pipeline.results.gains import Gain, paired_gain
from stages.config import LossConfig

KINDS = STUDIES / "thirteen"
COMMON = "common"
"""How the files begin that others extend."""

STUDENT = "student"


@dataclass(frozen=True)
class KindStudy(CostedStudy):
    """A kind of detector as the student."""

    @property
    def rows_file(self) -> Path:
        """See Study.rows_file."""
        return KINDS / f"{self.name}.jsonl"

    def roles(self) -> list[str]:
        """See Study.roles."""
        return [TEACHER, BASELINE, STUDENT, COST]

    def losses(self, role: str) -> tuple[LossConfig, ...]:
        """See Study.losses."""
        return self.config.distill.losses if role == STUDENT else ()

    def units(self) -> Iterator[tuple[str, int]]:
        """See Study.units; the baseline of equal cost only at the first seed."""
        yield from ((role, seed) for role, seed in super().units() if role != COST or seed == 0)


def kinds() -> list[KindStudy]:
    """Every kind in the folder."""
    return [KindStudy(file.stem, load(file)) for file in sorted(KINDS.glob("*.yaml")) if not file.stem.startswith(COMMON)]


def gain(study: KindStudy, metric: str) -> Gain | None:
    """The student's over the baseline on split test, at the seeds that have both; None if there is none, or no such metric."""
    found = {(row["role"], row["seed"]): row["test"].get(metric) for row in rows(study)}
    both = [seed for seed in study.seeds if found.get((STUDENT, seed)) is not None and found.get((BASELINE, seed)) is not None]
    return paired_gain([found[STUDENT, seed] for seed in both], [found[BASELINE, seed] for seed in both]) if both else None


def figures(study: KindStudy) -> dict[str, Any]:
    """What is known of a kind, for programs; mAP on split test."""
    reached: dict[str, list[float]] = {}
    for row in sorted(rows(study), key=lambda row: int(row["seed"])):
        reached.setdefault(row["role"], []).append(round(row["test"]["map"], 4))
    gains = {metric: found for metric in ("map", "mask_map") if (found := gain(study, metric)) is not None}
    return {"kind": study.name, **reached, **{f"gain_{metric}": points(found) for metric, found in gains.items()}}


def show(studies: Sequence[CostedStudy]) -> None:
    """One line per kind, then all as JSON."""
    known = [figures(study) for study in studies if isinstance(study, KindStudy) and rows(study)]
    for one in known:
        print(", ".join(f"{key} {value}" for key, value in one.items()))
    print(json.dumps(known))


if __name__ == "__main__":
    command(__doc__, kinds(), show)
