"""Are distilled engines more robust? Trains with and without a teacher, on clean and corrupted views, and sweeps the engines.

    python benchmarks/evidence/robustness.py                      print what has been measured
    python benchmarks/evidence/robustness.py page                 write what run.py page puts into docs/evidence.md
    python benchmarks/evidence/robustness.py run [--study NAME ...] [--role NAME ...] [--seed N ...] [--units N]

Data, folds, teachers, baselines, students and seeds are those of run.py's studies digits and bccd; what it left in runs/evidence is not
trained again. Each network becomes an fp32 and an int8 engine, judged on split test, on `shifted` (digits) and on fifteen corruptions of
half of the images of test (100 to 200) at severity 3; at the first seed also on all images at severities 1 to 5. Each network appends
one row to robustness.jsonl and is never repeated; an interrupted training or sweep resumes. Only one process may train at a time; pin it
with OMP_NUM_THREADS=1 taskset -c 1 ...
"""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import robust_page
from imagenet_start import fetch_imagenet_start
from page import SECTIONS
from robust_page import ROLES
from run import RUNS, STUDIES, TEACHER, Study, commit, data, digest, run, studies
from turns import alone

from deploy.accuracy.conditions import Corruptions
from pipeline.config import PipelineConfig
from pipeline.results.ablation import BASELINE, TOGETHER
from pipeline.results.table import grid
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Dataset, Engine
from stages.assess import assess
from stages.config import Corrupt, RobustnessConfig, StudentConfig, StudentViewConfig, TargetConfig
from stages.distill import distill
from stages.export import export
from stages.facts import FACTS
from stages.measurement.robust import AT
from stages.optimize import judging, optimize
from stages.stress import stress
from stages.train import train_baseline
from stages.validate import validate

ROWS = STUDIES / "robustness.jsonl"
NAMES = ("digits", "bccd")
SHARED = {"baseline": BASELINE, "student": TOGETHER}
"""Roles that run.py trains too, by its names."""
SPLIT = "test"
VIEW = StudentViewConfig(corrupt=0.5, severity=(1, 3), downscale=0.25)


@dataclass(frozen=True)
class RobustUnit:
    """A network to train and to sweep."""

    study: Study
    role: str
    seed: int

    @property
    def digest(self) -> str:
        """Hash of everything that its figures depend on."""
        kind = BASELINE if self.role.startswith("baseline") else TOGETHER
        parts = [
            digest(self.study, kind, self.seed),
            self.role,
            self.mode,
            VIEW.model_dump(mode="json"),
            corrupted().model_dump(mode="json"),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def mode(self) -> list[Corruptions]:
        """The sweeps: quick at every seed, full at the first."""
        return ["quick", "full"] if self.seed == 0 else ["quick"]


def corrupted() -> Corrupt:
    """The augmentation that corrupts as often and as much as the student's view."""
    given = {name: getattr(VIEW, name) for name in ("severity", "kinds", "downscale", "smallest")}
    return Corrupt(name="corrupt", p=VIEW.corrupt, **given)


def units() -> Iterator[RobustUnit]:
    """Every network, seed by seed."""
    for study in studies():
        if study.name in NAMES:
            yield from (RobustUnit(study, role, seed) for seed in study.seeds for role in ROLES)


def measured() -> list[dict[str, Any]]:
    """The rows that were measured with the current configuration."""
    known = {unit.digest for unit in units()}
    every = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []
    return [row for row in every if row["digest"] in known]


def measure(unit: RobustUnit) -> dict[str, Any]:
    """Train one network, build and judge its engines; its row."""
    study, config = unit.study, unit.study.config
    store, dataset = Store(RUNS, f"robustness-{study.name}", say=print), data(study, "student", unit.seed)
    checkpoint = trained(unit, config, store, dataset)
    model = store.run(export, config.export, checkpoint)
    how = config.validation.model_copy(update={"split": SPLIT})
    targets = [TargetConfig.model_validate({"name": one, "runtime": "ort", "precision": one}) for one in ("fp32", "int8")]
    engines = {one.name: store.at(one.name).run(optimize, one, model, dataset, *judging(one, how)) for one in targets}
    splits = [one for one in ("shifted",) if one in dataset.facts.splits]
    reports = {}
    for name, engine in engines.items():
        for split in (SPLIT, *splits):
            title = name if split == SPLIT else f"{name}{AT}{split}"
            reports[title] = store.at(title).run(validate, how.model_copy(update={"split": split}), engine, dataset)
    figures: dict[str, dict[str, Any]] = {name: {"map": _map(reports[name])} for name in engines}
    for mode in unit.mode:
        for name, found in swept(mode, splits, store, dataset, engines, reports).items():
            figures[name] |= found
    row = {"study": study.name, "role": unit.role, "seed": unit.seed, "engines": figures}
    return {**row, "num_images": dataset.facts.splits[SPLIT].num_images, "commit": commit(), "digest": unit.digest}


def trained(unit: RobustUnit, config: PipelineConfig, store: Store, dataset: Dataset) -> Checkpoint:
    """The network of a role; those that are run.py's too are trained once for both."""
    if unit.role in SHARED:
        return of_study(unit, SHARED[unit.role], unit.seed)
    given = unit.seed, config.device, "val", dataset
    if unit.role == "baseline with corrupt":
        train = config.student.train
        more = train.model_copy(update={"augment": (*train.augment, corrupted())})
        student = StudentConfig(detector=config.student.detector, train=more, weights=config.student.weights)
        return store.run(train_baseline, student, *given, config.export.decisions)
    taught = config.distill.model_copy(update={"student_view": VIEW})
    teacher = of_study(unit, TEACHER, unit.study.teacher_seed(unit.seed))
    return store.run(distill, taught, config.student, *given, teacher, config.export.decisions)


def of_study(unit: RobustUnit, role: str, seed: int) -> Checkpoint:
    """A network of run.py's, trained now if its weights are not there; a student's teacher is there first."""
    folder = RUNS / digest(unit.study, role, seed)
    if not (folder / FACTS).exists():
        if unit.study.losses(role):
            of_study(unit, TEACHER, unit.study.teacher_seed(seed))
        run(unit.study, role, seed)
    return Checkpoint(folder)


def swept(
    mode: Corruptions, splits: Sequence[str], store: Store, dataset: Dataset, engines: Mapping[str, Engine], reports: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Figures of a sweep by engine; those of a full one end in `_full`."""
    asked = RobustnessConfig(splits=tuple(splits), corruptions=mode)
    sweep = store.at(mode).run(stress, asked.swept, SPLIT, 1, engines, dataset)
    facts = store.at(mode).run(assess, asked, SPLIT, dataset, reports, sweep).facts
    end = "_full" if mode == "full" else ""
    found: dict[str, dict[str, Any]] = {}
    for name, one in facts.engines.items():
        assert one.sweep is not None
        found[name] = {f"mpc{end}": one.sweep.mpc, f"rpc{end}": one.sweep.rpc, f"maps{end}": one.sweep.maps}
        found[name] |= {f"map_{split}": figures.map for split, figures in one.splits.items()}
    return found


def _map(report: Any) -> float | None:
    return None if report.facts.accuracy is None else report.facts.accuracy.map


def work(args: argparse.Namespace) -> None:
    """Measure the missing rows, at most `--units` of them."""
    fetch_imagenet_start()
    done, known = 0, {row["digest"] for row in measured()}
    for unit in units():
        wanted = (not args.study or unit.study.name in args.study) and (not args.role or unit.role in args.role)
        if not wanted or unit.digest in known or (args.seed and unit.seed not in args.seed) or done == args.units:
            continue
        row = measure(unit)
        with ROWS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        done += 1


def show() -> None:
    """The tables of the page, for a terminal."""
    for title, (header, lines) in robust_page.tables(measured()).items():
        print(f"\n{title}\n{grid(header, lines)}")


def write() -> None:
    """Write the page's part."""
    notes = (STUDIES / "robustness.md").read_text(encoding="utf-8")
    SECTIONS.mkdir(exist_ok=True)
    (SECTIONS / "robustness.md").write_text(robust_page.section(measured(), notes), encoding="utf-8")


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("show", "run", "page"), default="show")
    parser.add_argument("--study", nargs="+", default=[], choices=NAMES)
    parser.add_argument("--role", nargs="+", default=[], choices=ROLES)
    parser.add_argument("--seed", nargs="+", type=int, default=[])
    parser.add_argument("--units", type=int, default=-1, help="stop after N networks (default: no limit)")
    args = parser.parse_args()
    if args.action != "run":
        (show if args.action == "show" else write)()
        return
    with alone(RUNS):
        work(args)


if __name__ == "__main__":
    main()
