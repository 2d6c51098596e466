"""Collects the measured engines' numbers for the plots: mAP and latency, where the time goes, precision and recall."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report import plots
from pipeline.report.plots import EnginePoint, Panel
from pipeline.run_result import RunResult
from stages.artifacts import PRECISION_RECALL, Report, read_json

PARTS = ("pre", "infer", "post")

MOST_CURVES = 12
"""With more classes than this, only the weakest get a precision-recall curve."""

_STYLES = {"fp32": "solid", "fp16": "dashed", "int8": "dotted"}


@dataclass(frozen=True)
class LatencyRow:
    """An engine's latency in ms: the median of each part, and the median and the 99th percentile end to end."""

    name: str
    series: str
    parts: dict[str, float]
    p50: float
    p99: float


@dataclass(frozen=True)
class Curves:
    """An engine's precision-recall curves, as written by validate, and how they are drawn."""

    name: str
    series: str
    style: str
    map: float
    values: Mapping[str, Any]


def engine_plots(run: RunResult, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The plots, by their names in the template."""
    shown = engines(summary)
    rows = latency_rows(summary)
    curves = precision_curves(run)
    best = max((c for c in curves if c.series == "student"), key=lambda c: c.map, default=None)
    return {
        "tradeoff": [chart for size in ((900, 430), (380, 380)) if (chart := plots.tradeoff(shown, *size))],
        "latency": rows,
        "slowest": max((sum(row.parts.values()) for row in rows), default=0) or 1,
        "precision_recall": plots.precision_recall({c.name: (c.series, c.style, c.values) for c in curves}),
        "precision_recall_lines": [(c.name, c.series, c.style) for c in curves],
        "class_curves": class_curves(curves, best, run.dataset.facts.contract.classes) if best else [],
        "best": best.name if best else None,
        "most_curves": MOST_CURVES,
    }


def engines(summary: Mapping[str, Any]) -> list[EnginePoint]:
    """The engines with both an accuracy and a latency, references first."""
    return [
        EnginePoint(name, series, figures["map"], figures["latency_ms"]["end_to_end"]["p50"])
        for name, series, figures in _every(summary)
        if figures["map"] is not None and figures["latency_ms"]
    ]


def latency_rows(summary: Mapping[str, Any]) -> list[LatencyRow]:
    """The engines whose latency was measured, the fastest first."""
    rows = []
    for name, series, figures in _every(summary):
        if latency := figures["latency_ms"]:
            parts = {part: latency[part]["p50"] for part in PARTS}
            rows.append(LatencyRow(name, series, parts, latency["end_to_end"]["p50"], latency["end_to_end"]["p99"]))
    return sorted(rows, key=lambda row: row.p50)


def precision_curves(run: RunResult) -> list[Curves]:
    """The curves of the engines whose accuracy was measured, references first."""
    reports = [(name, name, "solid", report) for name, report in run.references.items()]
    reports += [(target.config.name, "student", _STYLES[target.engine.facts.precision], target.report) for target in run.targets]
    return [Curves(name, series, style, value, found) for name, series, style, report in reports for value, found in _read(report)]


def class_curves(curves: Sequence[Curves], best: Curves, classes: Sequence[str]) -> list[Panel]:
    """One panel per class: the best target's curve in front of the teacher's and the baseline's."""
    series = {c.series: c.values for c in curves if c.series != "student"} | {"student": best.values}
    own = best.values["iou_50"]["per_class"]
    defined = [name for name in classes if own.get(name) is not None]
    if len(defined) > MOST_CURVES:
        defined = sorted(defined, key=lambda name: plots.average(own[name]) or 0)[:MOST_CURVES]
    return plots.class_curves(series, defined)


def _every(summary: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    references = [(name, name, figures) for name, figures in summary["references"].items()]
    return references + [(name, "student", figures) for name, figures in summary["targets"].items()]


def _read(report: Report) -> list[tuple[float, dict[str, Any]]]:
    accuracy = report.facts.accuracy
    return [] if accuracy is None else [(accuracy.map or 0.0, read_json(report.file(PRECISION_RECALL)))]
