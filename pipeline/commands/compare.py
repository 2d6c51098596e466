"""`edgedistill compare`: which method of distillation helps on this data, by how much, and how sure that is.

Trainings are stages of `edgedistill run`: the store keeps them, and several processes may share them.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from deploy.errors import ConfigError
from pipeline.arena.bouts import Bouts
from pipeline.arena.opening import begin
from pipeline.arena.outcome import outcome
from pipeline.arena.record import agree, close
from pipeline.arena.scoreboard import Scoreboard, scoreboard
from pipeline.arena.sharing import do_all
from pipeline.commands.check import before_trainings
from pipeline.config import PipelineConfig, load
from pipeline.results.contest import figures
from pipeline.results.contest_table import render
from pipeline.results.recommendation import recommend
from pipeline.results.table import grid
from pipeline.store.exclusion import refuse_without_locks
from pipeline.store.files import replace_json
from pipeline.store.store import Store
from pipeline.terminal.answer import Answer, say, silent

FEWEST = 2
"""Seeds: a single pair has no interval."""


def compare(args: argparse.Namespace) -> Answer:
    """Train every method and the baselines at every seed, or join those who do; write compare.json and compare.html when all is there."""
    config = load(Path(args.config), args.settings)
    seeds = _seeds(args, config)
    log = partial(say, stream=sys.stderr if args.json else sys.stdout)
    bouts = _begin(args, config, seeds, log)
    if args.dry_run or args.status:
        return _plan(bouts) if args.dry_run else _status(bouts)
    if args.share is not None:
        agree(bouts)
    do_all(bouts.jobs(), _Announcer(bouts, log))
    if args.share is not None:
        again = f"all {len(scoreboard(bouts).states)} trainings are done; draw the table with the same command without --share"
        return Answer({"done": True}, again)
    return _drawn(bouts)


def _seeds(args: argparse.Namespace, config: PipelineConfig) -> int:
    """The number of seeds.

    Raises:
        ConfigError: options that make no comparison.
    """
    seeds: int = config.compare.seeds if args.seeds is None else args.seeds
    if not FEWEST <= seeds <= 100:
        raise ConfigError(f"--seeds is {seeds}; pass 2 to 100: a single seed has no interval (edgedistill ablate takes one)")
    if args.minutes is not None and not args.minutes > 0:
        raise ConfigError(f"--minutes is {args.minutes:g}; pass a number above 0")
    if args.share is not None and (args.dry_run or args.status):
        raise ConfigError("--share trains, and --dry-run and --status do not; pass one of them")
    return seeds


def _begin(args: argparse.Namespace, config: PipelineConfig, seeds: int, log: Callable[[str], None]) -> Bouts:
    """The comparison, none of it trained.

    Raises:
        ConfigError: under torchrun; see `begin`.
        ArtifactError: work is to be shared, and the store's locks keep nobody out.
    """
    importlib.import_module("scipy.stats")  # the intervals need it: fail now rather than after all trainings
    store = Store(Path(args.runs), config.name, say=log, before=before_trainings(config))
    if store.num_processes > 1:
        raise ConfigError("compare does not run under torchrun; start one process per GPU with --share any")
    if args.share is not None:
        store.folder.mkdir(parents=True, exist_ok=True)
        refuse_without_locks(store.folder)
    return begin(config, store, seeds, minutes=args.minutes, shared=args.share is not None)


class _Announcer:
    """Prints how far all processes have come, whenever this one has trained something."""

    def __init__(self, bouts: Bouts, log: Callable[[str], None]) -> None:
        self._bouts, self._log = bouts, log
        self._made = 0

    def __call__(self) -> None:
        made = sum(not record.reused for record in self._bouts.arena.store.records)
        if made > self._made:
            self._made = made
            self._log(scoreboard(self._bouts).line())


def _plan(bouts: Bouts) -> Answer:
    """What would be trained; only the steps' times have been measured."""
    field, costs = bouts.lineup, bouts.costs
    portions = costs.portions(field)
    rows = [[one.name, str(one.trainings), f"{one.minutes:.1f}"] for one in portions]
    total = sum(one.trainings for one in portions), sum(one.minutes for one in portions)
    table = grid(("part", "trainings", "minutes"), [*rows, ["all", str(total[0]), f"{total[1]:.1f}"]])
    seen = scoreboard(bouts)
    lines = [
        f"methods: {', '.join(one.name for one in field.methods)}",
        f"seeds: {', '.join(map(str, field.seeds))}",
        f"trials: {_trials(bouts)}",
        *([f"baseline, equal cost: left out: {why}"] if (why := costs.why_no_longer()) is not None else []),
        "",
        table,
        "minutes are estimated from measured steps, for one process and an empty store",
        seen.line(),
    ]
    data = {
        "methods": [one.name for one in field.methods],
        "seeds": [*field.seeds],
        "shares": [*field.shares],
        "portions": [asdict(one) for one in portions],
        "trainings": total[0],
        "minutes": total[1],
        **_counts(seen),
    }
    return Answer(data, "\n".join(lines))


def _trials(bouts: Bouts) -> str:
    field = bouts.lineup
    if not field.tried:
        return f"none; the losses get {field.shares[0]:g} of the gradient"
    split = bouts.arena.config.compare.tuning_split or "a fifth of train"
    shares = ", ".join(f"{share:.2g}" for share in field.shares)
    return f"{len(field.tried)} per method at seed {field.tuning_seed}, judged on {split}: the losses get {shares} of the gradient"


def _status(bouts: Bouts) -> Answer:
    seen = scoreboard(bouts)
    return Answer(_counts(seen), seen.render())


def _counts(seen: Scoreboard) -> dict[str, Any]:
    states = seen.states
    return {"states": {state: states.count(state) for state in dict.fromkeys(states)}, "minutes_left": seen.minutes_left}


def _drawn(bouts: Bouts) -> Answer:
    """Read every result and write it for people and programs."""
    from pipeline.report.contest_page import write_page

    bouts.arena.store.say = silent
    contest, folder = outcome(bouts), bouts.arena.store.root / bouts.arena.config.name
    advice = recommend(contest)
    found = {**figures(contest), "recommendation": asdict(advice)}
    replace_json(folder / "compare.json", {"format": 1, **found})
    write_page(contest, folder / "compare.html")
    close(bouts)
    bouts.arena.tidy()
    files = [str(folder / name) for name in ("compare.json", "compare.html")]
    return Answer(found, "\n".join(["", render(contest), "", *files]))
