"""The metrics of past runs, one row per run."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.comparison import metrics
from deploy.machine.packages import git_commit
from pipeline.run_result import RunResult
from stages.measurement.verdicts import judged_number, side_of

FILE = "history.jsonl"
KEYS = frozenset({"time", "commit", "exit_code", "targets"})


def add(result: RunResult, folder: Path, exit_code: int) -> None:
    """Append a row unless the last one has the same figures."""
    reached = {name: network.facts.accuracy for name, network in result.networks.items()}
    figures: dict[str, dict[str, float]] = {}
    for target in result.targets:
        side = side_of(
            target.engine, target.report, (result.measurement, target.config.name), result.onnx, result.config.validation, reached
        )
        classes = [metrics.OF_CLASS + name for name in side.contract.classes]
        if result.robustness is not None and target.config.name in result.robustness.facts.engines:
            robust = result.robustness.facts.engines[target.config.name].values()
            side = replace(side, figures=replace(side.figures, robust=robust))
        known = (
            {
                name: judged_number(side.figures, name)[0]
                for name in {**dict.fromkeys(metrics.NAMES), **dict.fromkeys(classes), **side.figures.robust}
            }
            if side.why is None
            else {}
        )
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
    """Past runs, oldest first, with metrics under their current names; incomplete lines, which a crash may leave, are skipped."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.keys() >= KEYS and _are_figures(row["targets"]):
            found.append({**row, "targets": {target: _renewed(figures) for target, figures in row["targets"].items()}})
    return found


def _are_figures(targets: Any) -> bool:
    return isinstance(targets, dict) and all(isinstance(figures, dict) for figures in targets.values())


def _renewed(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {metrics.FORMER_NAMES.get(name, name): value for name, value in figures.items()}
