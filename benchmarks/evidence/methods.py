"""Which method of distillation helps? `edgedistill compare` on three pairs, its trainings kept as rows.

    python benchmarks/evidence/methods.py                       print how far each pair has come, and the tables of the complete ones
    python benchmarks/evidence/methods.py run [--study NAME ...] [--units N]
    python benchmarks/evidence/methods.py page                  write the tables to docs/comparison.md

A pair is a pipeline file in benchmarks/evidence/methods/. Each training, and each measurement of steps, appends one row to <pair>.jsonl
and is never repeated: rows without their folder in the store are put back there, with figures but without weights. An interrupted training
resumes. Strengths are chosen on split val, at a seed of their own; the results are of split test. All three pairs take some thirty hours of
one core, digits, the first, seventeen: pin it with OMP_NUM_THREADS=1 taskset -c 1 ...
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagenet_start import fetch_imagenet_start
from page import table
from run import ROOT, RUNS, STUDIES, commit
from turns import alone

from deploy.errors import Diverged
from pipeline.arena.bouts import Bouts
from pipeline.arena.opening import begin
from pipeline.arena.outcome import outcome
from pipeline.arena.scoreboard import scoreboard
from pipeline.commands.check import before_trainings
from pipeline.config import PipelineConfig, load
from pipeline.results.contest import Contest
from pipeline.results.contest_table import header, rows
from pipeline.results.recommendation import recommend
from pipeline.store.files import replace_json
from pipeline.store.stamp import stamp, stamped
from pipeline.store.store import Store
from pipeline.terminal.answer import silent
from stages.facts import FACTS

PAIRS = STUDIES / "methods"
PAGE = ROOT / "docs" / "comparison.md"
HEADING = "## Methods of distillation"
TEACHERS = ("train_teacher", "untrained_teacher")
"""Stages whose weights others need: put back only to be read."""
KEPT = (*TEACHERS, "time_steps", "weigh_steps", "train_baseline", "distill")


@dataclass(frozen=True)
class MethodPair:
    """A pipeline file with a section compare."""

    name: str
    config: PipelineConfig

    @property
    def rows_file(self) -> Path:
        """One row per artifact."""
        return PAIRS / f"{self.name}.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        """Everything that was kept."""
        lines = self.rows_file.read_text(encoding="utf-8").splitlines() if self.rows_file.exists() else []
        return [json.loads(line) for line in lines]

    def put_back(self, store: Store, *, teachers: bool) -> None:
        """Make the folders of rows that the store lacks, and the notes on trainings that diverged."""
        for row in self.rows():
            if "diverged" in row:
                replace_json(self.notes(store) / f"{row['artifact']}.json", row["diverged"])
                continue
            stage, folder = row["artifact"].rpartition("-")[0], store.folder / row["artifact"]
            if folder.exists() or (stage in TEACHERS and not teachers):
                continue
            folder.mkdir(parents=True)
            (folder / FACTS).write_text(json.dumps(row["facts"]) + "\n", encoding="utf-8")
            stamp(folder, row["instance"], row["seconds"])

    def keep(self, store: Store) -> None:
        """Append a row for everything that the store has found or made and that has none."""
        known = {row["artifact"] for row in self.rows()}
        for record in store.records:
            made = stamped(store.folder / record.key)
            if record.name not in KEPT or record.key in known or made is None:
                continue
            known.add(record.key)
            facts = json.loads((store.folder / record.key / FACTS).read_text(encoding="utf-8"))
            about = {"artifact": record.key, "instance": made["stage"], "seconds": made["seconds"], "commit": commit()}
            self._append({**about, "facts": _short(facts)})

        for note in sorted(self.notes(store).glob("*.json")):
            if note.stem not in known:
                self._append({"artifact": note.stem, "diverged": json.loads(note.read_text(encoding="utf-8")), "commit": commit()})

    def notes(self, store: Store) -> Path:
        """Where it is noted which trainings diverged."""
        return store.root / self.config.name / "diverged"

    def _append(self, row: dict[str, Any]) -> None:
        with self.rows_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def open(self, root: Path, *, teachers: bool) -> Bouts:
        """The comparison; its steps are measured if they have no row."""
        store = Store(root, self.config.name, say=silent if teachers else print, before=before_trainings(self.config))
        self.put_back(store, teachers=teachers)
        bouts = begin(self.config, store, self.config.compare.seeds)
        self.keep(store)
        return bouts


def _short(facts: dict[str, Any]) -> dict[str, Any]:
    """Without the curve of a training, which no table needs."""
    return {**facts, "curve": None} if "curve" in facts else facts


def pairs() -> list[MethodPair]:
    """Every pair in the folder, the one with the most methods first."""
    found = [MethodPair(file.stem, load(file)) for file in sorted(PAIRS.glob("*.yaml"))]
    return sorted(found, key=lambda pair: -len(pair.config.compare.methods or ()))


def work(study: MethodPair, units: int) -> int:
    """Train what is missing, at most this many networks; returns how many are left of them."""
    if study.rows() and complete(study) is not None:
        return units
    bouts = study.open(RUNS, teachers=False)
    store = bouts.arena.store
    for job in bouts.jobs():
        if units == 0:
            return 0
        before = _made(store)
        try:
            job()
        except Diverged as error:
            print(error, flush=True)
        study.keep(store)
        if _made(store) > before:
            units -= 1
            print(f"{study.name}: {scoreboard(bouts).line()}", flush=True)
    return units


def _made(store: Store) -> int:
    return sum(not record.reused for record in store.records)


def complete(study: MethodPair) -> Contest | None:
    """The result, from the rows; None if something has not been trained. Its folder is made for that, and deleted."""
    root = RUNS / f"drawn-{study.name}"
    try:
        bouts = study.open(root, teachers=True)
        seen = scoreboard(bouts)
        print(f"{study.name}: {seen.line()}")
        return outcome(bouts) if {*seen.states} <= {"done", "diverged"} else None
    finally:
        shutil.rmtree(root, ignore_errors=True)


def section(found: list[Contest]) -> Iterator[str]:
    """The tables in Markdown, what was found first."""
    yield f"{HEADING}\n"
    yield "Written by `python benchmarks/evidence/methods.py page`; [compare.md](compare.md) explains the figures.\n"
    for contest in found:
        yield f"### {contest.name.removeprefix('methods-')}\n"
        yield f"{recommend(contest).sentence}\n"
        yield f"{table(header(contest), rows(contest))}\n"
        yield f"{len(contest.seeds)} seeds, {contest.num_images} images of split {contest.split}.\n"


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=("show", "run", "page"), default="show")
    known = pairs()
    parser.add_argument("--study", nargs="+", default=[], choices=[study.name for study in known])
    parser.add_argument("--units", type=int, default=-1, help="stop after N trainings (default: no limit)")
    args = parser.parse_args()
    chosen = [study for study in known if not args.study or study.name in args.study]
    RUNS.mkdir(parents=True, exist_ok=True)
    begun = [study for study in chosen if study.rows()]
    if args.action == "run" or begun:
        fetch_imagenet_start()  # its content is part of the trainings' hashes: without it, no row would be found
    if args.action == "run":
        with alone(RUNS):
            for study in chosen:
                args.units = work(study, args.units)
        return
    for study in chosen:
        if study not in begun:
            print(f"{study.name}: not begun")
    found = [contest for study in begun if (contest := complete(study)) is not None]
    if args.action == "page" and found:
        before = PAGE.read_text(encoding="utf-8").partition(f"\n{HEADING}")[0]
        PAGE.write_text("\n".join([before, *section(found)]), encoding="utf-8")
    for contest in found:
        print("\n".join([contest.name, recommend(contest).sentence, table(header(contest), rows(contest))]))


if __name__ == "__main__":
    main()
