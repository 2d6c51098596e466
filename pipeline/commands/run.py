"""The commands on a configuration: run, report."""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from deploy.errors import ConfigError
from deploy.plugins import suggest
from pipeline.answer import Answer, say, silent
from pipeline.config import PipelineConfig, load
from pipeline.flow import STAGES, RunResult, compress, instances
from pipeline.outputs import publish
from pipeline.results.summary import stage_figures
from pipeline.results.table import render
from pipeline.store.store import Mode, Store, UntilReached

CHEAP = frozenset({"gate", "package"})
"""The stages that train and build nothing, so that reading commands may run them; a gate that compares latencies measures them."""

LAST_DISTRIBUTED = "distill"
"""After it, the processes after the first have nothing to do."""


def run(args: argparse.Namespace) -> Answer:
    """Make or reuse every stage; write summary, report and bundles whatever the verdict."""
    config = load(Path(args.config), args.settings)
    for option, allowed in ((args.until, [*STAGES]), (args.force, [*STAGES, *instances(config)])):
        if option is not None and option not in allowed:
            raise ConfigError(f"no stage '{option}'{suggest(option, allowed)}; choose from {', '.join(STAGES)}")
    store = _store(args, config)
    try:
        result = compress(config, store)
    except UntilReached as reached:
        return _plan(store) if args.dry_run else _partial(store, str(reached))
    if args.dry_run:
        return _plan(store)
    folder = store.root / config.name
    summary = publish(result, folder)
    paths = [folder / "summary.json", folder / "report.html", *(folder / "bundle" / target.name for target in config.targets)]
    text = "\n".join(["", render(summary), "", *map(str, paths)])
    return Answer(summary, text, summary["exit_code"])


def reused(args: argparse.Namespace) -> RunResult:
    """What a run has made of the configuration; only the cheap stages run where they must."""
    config = load(Path(args.config), args.settings)
    return compress(config, Store(Path(args.runs), config.name, Mode(only=CHEAP)))


def _store(args: argparse.Namespace, config: PipelineConfig) -> Store:
    """The store in this process: the first of several says what it does, the others only train."""
    mode = Mode(force=args.force, until=args.until, dry=args.dry_run)
    log = partial(say, stream=sys.stderr if args.json else sys.stdout)
    store = Store(Path(args.runs), config.name, mode, say=silent if args.dry_run else log)
    if store.rank > 0:
        until = LAST_DISTRIBUTED if mode.until is None else min(mode.until, LAST_DISTRIBUTED, key=STAGES.index)
        return replace(store, mode=replace(mode, until=until), say=silent)
    return store


def _plan(store: Store) -> Answer:
    lines = [f"{record.instance:<28} {'reused' if record.reused else f'would run: {record.reason}'}" for record in store.records]
    return Answer({"stages": [stage_figures(record) for record in store.records]}, "\n".join(lines))


def _partial(store: Store, until: str) -> Answer:
    text = f"ended after {until}, as asked; summary.json, report.html and bundles are written by a whole run"
    return Answer({"until": until, "stages": [stage_figures(record) for record in store.records]}, text)
