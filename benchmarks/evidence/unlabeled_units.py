"""What the study of images without labels trains, in which order, and the rows that there are."""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from run import STUDIES, hashed

from pipeline.config import PipelineConfig, load
from stages.config import LossConfig

FOLDER = STUDIES / "unlabeled"
TEACHER, BASELINE, LABELED, CEILING = "teacher", "baseline", "labeled only", "ceiling"
PSEUDO = {"box_precision": 0.2}
"""Boxes are learned if a fifth of their class are exact. On val, at most 30% of a teacher's platelets are, at any score: they are 8 px wide
in the network's input. With the default of 60%, no box of the rarest class would be learned; other cells and digits are not affected."""
BETTER: Mapping[str, dict[str, Any]] = {
    "teacher, self-trained": {"pseudo": PSEUDO},
    "teacher, taught by the first": {"labels": "first", "pseudo": PSEUDO},
}
"""The section teacher.unlabelled of each teacher that learns from the unlabeled images."""
DENSE = LossConfig.model_validate({"name": "dense_labels", "weight": 1.0})
ARMS: Mapping[str, dict[str, Any]] = {
    "features": {"pseudo": None},
    "pseudo-labels": {"features": False, "pseudo": PSEUDO},
    "both": {"pseudo": PSEUDO},
    "both, refined": {"refine": 0.5, "pseudo": PSEUDO},
    "both, dense labels": {"pseudo": PSEUDO},
    **{f"both, {name}": {"pseudo": PSEUDO} for name in BETTER},
}
"""The section distill.unlabelled of each student that the verdict may be about."""
FOREIGN = "both, foreign images"
"""Blood cells with the photographs of the digits as images without labels: what harm they do."""
FIRST = (TEACHER, BASELINE, LABELED, "both")
"""What tells whether images without labels help at all."""
TRIED = ("both, dense labels", *(f"both, {name}" for name in BETTER))
"""Arms that go on to other seeds only if one of them is the best at the first."""
ALWAYS = (*FIRST, CEILING, *(arm for arm in ARMS if arm not in (*FIRST, *TRIED)))
ROLES = (*ALWAYS, *BETTER, *TRIED)
EXTRA = {"bccd": (FOREIGN,)}
ONE_TEACHER = ("digits",)
"""Studies whose seeds have the same labeled images."""
CEILING_STEPS = 4
"""The ceiling's steps at most, as a multiple of the student's."""
SEEDS = {"bccd": 5, "nuclei": 3, "digits": 5}
UNLABELED_DIGITS = 2000
TESTED, LABELED_NUCLEI = 128, 64


@dataclass(frozen=True)
class UnlabeledUnit:
    """A network to train."""

    study: str
    role: str
    seed: int

    @property
    def config(self) -> PipelineConfig:
        """The study's file."""
        return _loaded(study_file(self.study))

    @property
    def digest(self) -> str:
        """Hash of everything that its figures depend on."""
        config = self.config
        sections = [hashed(one) for one in (config.data, config.teacher, config.student, config.distill, config.export.decisions)]
        chosen = [
            section(self.role),
            BETTER.get(better(self.role) or ""),
            [one.model_dump(mode="json") for one in losses_of(self.role, config)],
        ]
        parts = [sections, self.role, self.seed, *chosen, UNLABELED_DIGITS, TESTED, LABELED_NUCLEI, CEILING_STEPS]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


_loaded = cache(load)


def study_file(study: str) -> Path:
    """Its pipeline file."""
    return FOLDER / f"{study}.yaml"


def rows_file(study: str) -> Path:
    """What its trainings are appended to."""
    return FOLDER / f"{study}.jsonl"


def section(role: str) -> dict[str, Any] | None:
    """The section distill.unlabelled of a role; None without one."""
    return ARMS["both"] if role == FOREIGN else ARMS.get(role)


def better(role: str) -> str | None:
    """The better teacher that a role is, or learns from; None if it has none."""
    return next((name for name in BETTER if role.endswith(name)), None)


def losses_of(role: str, config: PipelineConfig) -> tuple[LossConfig, ...]:
    """The losses of a role."""
    return (*config.distill.losses, DENSE) if role.endswith("dense labels") else config.distill.losses


def teacher_seed(study: str, seed: int) -> int:
    """The seed of a seed's teachers."""
    return 0 if study in ONE_TEACHER else seed


def roles(study: str) -> tuple[str, ...]:
    """The networks of a study at the first seed."""
    return *ROLES, *EXTRA.get(study, ())


def leading(study: str) -> str | None:
    """The arm that is the best on val at the first seed; None until all have been trained there."""
    found = {row["role"]: row["val"]["map"] for row in rows(study) if row["seed"] == 0}
    return None if any(arm not in found for arm in ARMS) else max(ARMS, key=lambda arm: found[arm])


def carried(study: str) -> tuple[str, ...]:
    """What other seeds need because of the arm that leads at the first: this arm, and its teacher if it has a better one."""
    best = leading(study)
    if best is None or best in FIRST:
        return ()
    own = better(best)
    return (*(() if own is None else (own,)), best)


def units() -> Iterator[UnlabeledUnit]:
    """Every network, what is told early first; which arms go on to other seeds is decided by the rows that there are."""
    for chosen in (FIRST, [role for role in ROLES if role not in FIRST]):
        for study in SEEDS:
            yield from (UnlabeledUnit(study, role, 0) for role in chosen)
    needed = {study: (*FIRST, CEILING, *carried(study)) for study in SEEDS}
    for only in (True, False):
        for study, count in SEEDS.items():
            for seed in range(1, count):
                every = needed[study] if only else [role for role in ALWAYS if role not in needed[study]]
                shared = (TEACHER, *BETTER) if teacher_seed(study, seed) != seed else ()
                yield from (UnlabeledUnit(study, role, seed) for role in every if role not in shared)
    for study, more in EXTRA.items():
        yield from (UnlabeledUnit(study, role, seed) for seed in range(SEEDS[study]) for role in more)


def rows(study: str) -> list[dict[str, Any]]:
    """The study's rows that were measured with its current configuration."""
    file = rows_file(study)
    every = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return [row for row in every if row["digest"] == UnlabeledUnit(study, row["role"], row["seed"]).digest]


def missing(args: argparse.Namespace) -> Iterator[UnlabeledUnit]:
    """The wanted networks without a row, in their order."""
    measured = {row["digest"] for study in SEEDS for row in rows(study)}
    for unit in units():
        wanted = (not args.study or unit.study in args.study) and (not args.role or unit.role in args.role)
        if wanted and (not args.seed or unit.seed in args.seed) and unit.digest not in measured:
            yield unit
