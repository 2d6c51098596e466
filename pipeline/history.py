"""history: a metric over past runs, as a table and a plot. Every run with other figures or another exit code adds a row."""

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy import metrics
from deploy.errors import ConfigError
from deploy.plugins import suggest
from pipeline.answer import Answer
from pipeline.config import load
from pipeline.flow import RunResult
from pipeline.table import grid, number
from stages.gate import number as judged
from stages.gate import side_of
from stages.package import git_commit

FILE, PAGE = "history.jsonl", "history.html"
KEYS = frozenset({"time", "commit", "exit_code", "targets"})


def add(result: RunResult, folder: Path, exit_code: int) -> None:
    """Append a row unless the last one has the same figures."""
    trained = {"teacher": result.teacher, "undistilled": result.baseline, "torch": result.student}
    maps = {name: network.facts.accuracy.map for name, network in trained.items()}
    figures: dict[str, dict[str, float]] = {}
    for target in result.targets:
        side = side_of(target.engine, target.report, result.onnx, result.config.validation, maps)
        classes = [metrics.OF_CLASS + name for name in side.contract.classes]
        known = {name: judged(side.figures, name)[0] for name in (*metrics.NAMES, *classes)} if side.why is None else {}
        figures[target.config.name] = {name: value for name, value in known.items() if value is not None}
    row = {"commit": git_commit(Path.cwd()), "exit_code": exit_code, "targets": figures}
    path = folder / FILE
    earlier = rows(path)
    if earlier and {**earlier[-1], "time": None, "commit": None} == {**row, "time": None, "commit": None}:
        return
    folder.mkdir(parents=True, exist_ok=True)
    whole = not path.exists() or path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("" if whole else "\n")
        file.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **row}, allow_nan=False) + "\n")


def rows(path: Path) -> list[dict[str, Any]]:
    """Past runs, the oldest first; half a line, which a crash may leave, is none."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.keys() >= KEYS and isinstance(row["targets"], dict):
            found.append(row)
    return found


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
    series = {name: [row["targets"].get(name, {}).get(args.metric) for row in past] for name in names}
    data = {"metric": args.metric, "runs": [{key: row[key] for key in ("time", "commit", "exit_code")} for row in past], "targets": series}
    if not past:
        return Answer(data, f"no run of {config.name} is on record in {folder}")
    from pipeline.history_page import write_page

    write_page(config.name, args.metric, past, series, folder / PAGE)
    return Answer(data, f"{_table(args.metric, past, series)}\n\n{folder / PAGE}")


def _table(metric: str, past: Sequence[Mapping[str, Any]], series: Mapping[str, Sequence[float | None]]) -> str:
    lines = []
    for index, row in enumerate(past):
        values = [number(values[index]) for values in series.values()]
        lines.append([row["time"], (row["commit"] or "-")[:9], str(row["exit_code"]), *values])
    return f"{metric}\n" + grid(["time", "commit", "exit", *series], lines)
