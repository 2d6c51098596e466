"""`edgedistill run`: runs or reuses every stage, then writes summary, report and bundles."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from deploy.errors import ConfigError
from deploy.plugins import suggest
from pipeline.commands.check import before_trainings
from pipeline.config import PipelineConfig, load
from pipeline.config.derived import instances, interim
from pipeline.flow import compress
from pipeline.init.own_figure import fill_in, reached
from pipeline.outputs import publish
from pipeline.results.summary import stage_figures
from pipeline.results.table import render
from pipeline.run_result import RunResult
from pipeline.store.store import Mode, Store, UntilReached
from pipeline.terminal.answer import Answer, say, silent
from stages import STAGES

CHEAP = frozenset({"gate", "package"})
"""Stages that train and build nothing: commands that only read may run them. Gates that compare latencies still measure them."""

_ASKED_BY = {"stress": "robustness.corruptions", "assess": "robustness.splits"} | dict.fromkeys(("collect", "label"), "distill.unlabelled")
_ASKED_BY |= {"finetune_int8": "int8: {finetune: true} on a target"}
"""What has to be set for a stage that most runs do without."""


def last_distributed(config: PipelineConfig) -> str:
    """The last stage with work for all processes; after it, only the first one continues."""
    return "finetune_int8" if config.finetunes else "distill"


@dataclass(frozen=True)
class FinishedRun:
    """A complete run.

    result: every artifact. summary: the contents of summary.json. folder: has summary.json, report.html and the bundles.
    """

    result: RunResult
    summary: Mapping[str, Any]
    folder: Path

    @property
    def exit_code(self) -> int:
        """The exit code of `edgedistill run`: 0 if every gate passed, 10, 11 or 12 if not, 5 if a required target could not be measured."""
        return int(self.summary["exit_code"])

    @property
    def report(self) -> Path:
        """report.html."""
        return self.folder / "report.html"

    @property
    def bundles(self) -> dict[str, Path]:
        """The folder of each target's bundle, by the target's name."""
        return {target.config.name: self.folder / "bundle" / target.config.name for target in self.result.targets}


def run(args: argparse.Namespace) -> Answer:
    """Run or reuse every stage; write summary, report and bundles whatever the verdict."""
    config = load(Path(args.config), args.settings)
    mode = Mode(force=args.force, until=args.until, dry=args.dry_run)
    log = silent if mode.dry else partial(say, stream=sys.stderr if args.json else sys.stdout)
    store = open_store(config, Path(args.runs), mode, log)
    try:
        if mode.dry:
            compress(config, store)
            return _plan(store)
        finished = finish(config, store)
    except UntilReached as reached:
        return _plan(store) if mode.dry else _partial(store, str(reached))
    paths = [finished.folder / "summary.json", finished.report, *finished.bundles.values()]
    own = [] if args.settings else _own_figure(Path(args.config), finished.summary, store)
    text = "\n".join(["", render(finished.summary), *own, "", *map(str, paths)])
    return Answer(finished.summary, text, finished.exit_code)


def _own_figure(path: Path, summary: Mapping[str, Any], store: Store) -> list[str]:
    """Fill in the gate that `init` left as a comment, if the file still has it, and say how to hold the accuracy that was reached.

    Not to be called with --set: the figure is then not the file's.
    """
    figure = reached(summary)
    line = fill_in(path, figure) if figure is not None and store.rank == 0 else None
    return [] if line is None else ["", line]


def open_store(config: PipelineConfig, runs: Path, mode: Mode, log: Callable[[str], None]) -> Store:
    """The store in this process; of several processes, the first logs what it does and the others only train.

    Raises:
        ConfigError: the mode names an unknown stage, or forces one in several processes.
    """
    for stage, allowed in ((mode.until, [*STAGES]), (mode.force, [*STAGES, *instances(config)])):
        if stage is not None and stage not in allowed:
            raise ConfigError(f"no stage '{stage}'{suggest(stage, allowed)}; choose from {', '.join(STAGES)}")
        if stage == "time_steps" and config.baseline.equal == "steps":
            raise ConfigError("stage 'time_steps' runs only for a baseline at equal cost; set baseline.equal to cost or both")
        asked = {"stress": config.robustness.corruptions is not None, "assess": config.robustness.is_asked}
        asked |= {"collect": config.uses_unlabelled, "label": config.uses_unlabelled}
        asked |= {"finetune_int8": config.finetunes}
        if stage is not None and not asked.get(stage, True):
            raise ConfigError(f"stage '{stage}' runs only if it is asked for; set {_ASKED_BY[stage]}")
    mode = replace(mode, interim=interim(config))
    store = Store(runs, config.name, mode, say=log, before=before_trainings(config))
    if store.rank > 0:
        last = last_distributed(config)
        until = last if mode.until is None else min(mode.until, last, key=STAGES.index)
        return replace(store, mode=replace(mode, until=until), say=silent)
    return store


def finish(config: PipelineConfig, store: Store) -> FinishedRun:
    """Run or reuse every stage, then write summary, report and bundles, whatever the verdict.

    Raises:
        UntilReached: the store's mode stops earlier.
    """
    result = compress(config, store)
    folder = store.root / config.name
    return FinishedRun(result, publish(result, folder), folder)


def reused(config: PipelineConfig, runs: Path) -> RunResult:
    """The artifacts that earlier runs of the configuration made; only the cheap stages run if they must."""
    return compress(config, Store(runs, config.name, Mode(only=CHEAP)))


def _plan(store: Store) -> Answer:
    lines = [f"{record.instance:<28} {'reused' if record.reused else f'would run: {record.reason}'}" for record in store.records]
    return Answer({"stages": [stage_figures(record) for record in store.records]}, "\n".join(lines))


def _partial(store: Store, until: str) -> Answer:
    text = f"stopped after {until}, as requested; only a complete run writes summary.json, report.html and bundles"
    return Answer({"until": until, "stages": [stage_figures(record) for record in store.records]}, text)
