"""`edgedistill history`: a metric over past runs, as a table and a plot. A run adds a row if its figures or its exit code have changed."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.comparison import metrics
from deploy.errors import ConfigError
from deploy.plugins import suggest
from pipeline.config import load
from pipeline.results.history import FILE, rows
from pipeline.results.table import grid, number
from pipeline.terminal.answer import Answer

PAGE = "history.html"


def history(args: argparse.Namespace) -> Answer:
    """Show a metric of every target over past runs."""
    try:
        metrics.check(args.metric)
    except ValueError as error:
        raise ConfigError(f"--metric {args.metric}: {error}") from error
    config = load(Path(args.config), args.settings)
    folder = Path(args.runs) / config.name
    past = rows(folder / FILE)
    names = list(dict.fromkeys(name for row in past for name in row["targets"]))
    if args.target is not None:
        if args.target not in names:
            raise ConfigError(f"--target {args.target}{suggest(args.target, names)}: past runs have {', '.join(names) or 'none'}")
        names = [args.target]
    own = dict.fromkeys(name for row in past for known in row["targets"].values() for name in known if name not in metrics.NAMES)
    if past and args.metric not in (*metrics.NAMES, *own):
        measured = ", ".join(own) or "none of a class or a split"
        raise ConfigError(f"--metric {args.metric}{suggest(args.metric, own)}: no past run has measured it; they have {measured}")
    series = {name: [row["targets"].get(name, {}).get(args.metric) for row in past] for name in names}
    data = {"metric": args.metric, "runs": [{key: row[key] for key in ("time", "commit", "exit_code")} for row in past], "targets": series}
    if not past:
        return Answer(data, f"no run of {config.name} is recorded in {folder}")
    from pipeline.report.history_page import write_page

    write_page(config.name, args.metric, past, series, folder / PAGE)
    return Answer(data, f"{_table(args.metric, past, series)}\n\n{folder / PAGE}")


def _table(metric: str, past: Sequence[Mapping[str, Any]], series: Mapping[str, Sequence[float | None]]) -> str:
    lines = []
    for index, row in enumerate(past):
        values = [number(values[index]) for values in series.values()]
        lines.append([row["time"], (row["commit"] or "-")[:9], str(row["exit_code"]), *values])
    return f"{metric}\n" + grid(["time", "commit", "exit", *series], lines)
