"""Does distillation help every kind of detector? Thirteen kinds as students, three seeds, losses and weights that nobody has tuned.

    python benchmarks/evidence/thirteen.py                     print what has been measured: a table and one line of JSON
    python benchmarks/evidence/thirteen.py page                write what run.py page puts into docs/evidence.md
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
from statistics import fmean
from typing import Any

from at_equal_cost import COST, CostedStudy, command
from page import SECTIONS, in_points, table
from run import STUDIES, TEACHER, rows

from pipeline.config import load
from pipeline.results.ablation import BASELINE
from pipeline.results.gains import Gain, paired_gain
from pipeline.results.table import UNDEFINED, number
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
    return {"kind": study.name, **reached, **{f"gain_{metric}": in_points(found) for metric, found in gains.items()}}


def show(studies: Sequence[CostedStudy]) -> None:
    """One line per kind, then all as JSON."""
    known = [figures(study) for study in studies if isinstance(study, KindStudy) and rows(study)]
    for one in known:
        print(", ".join(f"{key} {value}" for key, value in one.items()))
    print(json.dumps(known))


def line(study: KindStudy) -> list[str]:
    """A kind's row in the page: means over the seeds, the gains, and at the first seed the student over the baseline of equal cost."""
    found = {(row["role"], row["seed"]): row["test"]["map"] for row in rows(study)}
    means = [number(fmean([reach for (own, _), reach in found.items() if own == role])) for role in (TEACHER, BASELINE, STUDENT)]
    gains = [UNDEFINED if (one := gain(study, metric)) is None else in_points(one) for metric in ("map", "mask_map")]
    at_cost = f"{(found[STUDENT, 0] - found[COST, 0]) * 100:+.2f}" if (COST, 0) in found and (STUDENT, 0) in found else UNDEFINED
    return [f"`{study.name}`", *means, gains[0], at_cost, gains[1]]


def section(studies: Sequence[KindStudy], notes: str) -> str:
    """The part of the page in Markdown: what was found, in words, then the table."""
    header = ["student", "teacher", "baseline", "distilled", "gain, points", "over equal cost, first seed", "gain in mask mAP, points"]
    complete = [study for study in studies if {BASELINE, STUDENT, TEACHER} <= {row["role"] for row in rows(study)}]
    return f"## Thirteen kinds of detectors\n\n{notes.strip()}\n\n{table(header, map(line, complete))}\n"


def write() -> None:
    """Write the part of the page."""
    SECTIONS.mkdir(exist_ok=True)
    notes = (STUDIES / "thirteen.md").read_text(encoding="utf-8")
    (SECTIONS / "thirteen.md").write_text(section(kinds(), notes), encoding="utf-8")


if __name__ == "__main__":
    command(__doc__, kinds(), show, write)
