"""report.html: a run in one file that opens offline, without script, its plots inline and its pictures embedded."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deploy import machine
from pipeline import report_boxes, report_pictures, report_plots, report_words
from pipeline.files import replace_text
from pipeline.flow import RunResult, TargetResult
from pipeline.report_plots import Engine, Panel
from pipeline.report_words import NETWORKS
from pipeline.summary import difference, summarize
from stages.artifacts import Checkpoint, Report, read_json

PARTS = ("pre", "infer", "post")

MOST_CLASSES = 80
"""Of more classes, the report lists those that gained and those that lost most."""

MOST_CURVES = 12
"""Of more classes, the weakest get a precision-recall curve."""

_DISTRIBUTIONS = ("edgedistill", "torch", "torchvision", "accelerate", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13")
_STYLES = {"fp32": "solid", "fp16": "dashed", "int8": "dotted"}


@dataclass(frozen=True)
class ClassRow:
    """AP over IoU 0.5 to 0.95 of one class in each network, fractions; `gain` is distilled less undistilled."""

    name: str
    teacher: float | None
    baseline: float | None
    student: float | None
    gain: float | None


def write_report(run: RunResult, file: Path) -> None:
    """Draw the report of a run, whole or not at all.

    Raises:
        ArtifactError: an artifact of the run is damaged.
    """
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in ("fraction", "points", "percent", "milliseconds", "size", "count", "duration", "measured"):
        environment.filters[name] = getattr(report_words, name)
    replace_text(file, environment.get_template("report.html.j2").render(content(run)))


def content(run: RunResult) -> dict[str, Any]:
    """All that the template shows."""
    summary = summarize(run)
    classes = class_rows(run)
    return {
        "summary": summary,
        "config": run.config,
        "networks": NETWORKS,
        "headline": report_words.headline(summary),
        "verdicts": {name: report_words.worst(summary["gates"], name) for name in summary["targets"]},
        "split": run.config.validation.split,
        **_measured(run, summary),
        "training": dict(zip(("terms", "diagnostics"), report_plots.training(_curves(run)), strict=True)),
        "classes": shown_classes(classes),
        "num_classes": len(classes),
        **_pictures(run),
        "spent": {
            "now": sum(stage.seconds or 0 for stage in run.stages if not stage.reused),
            "all": sum(stage.seconds or 0 for stage in run.stages),
        },
        "longest": max((stage.seconds or 0 for stage in run.stages), default=0) or 1,
        "facts": _facts(run),
    }


def engines(summary: Mapping[str, Any]) -> list[Engine]:
    """The measured engines, references first."""
    series = [(name, name, figures) for name, figures in summary["references"].items()]
    series += [(name, "student", figures) for name, figures in summary["targets"].items()]
    return [
        Engine(NETWORKS[key].lower() if name == key else name, key, figures["map"], figures["latency_ms"]["end_to_end"]["p50"])
        for name, key, figures in series
        if figures["map"] is not None and figures["latency_ms"]
    ]


def class_rows(run: RunResult) -> list[ClassRow]:
    """Each class's AP, in the data set's order."""
    found = [network.facts.accuracy.per_class for network in _networks(run).values()]
    values = {name: [table.get(name) for table in found] for name in run.dataset.facts.contract.classes}
    return [ClassRow(name, *three, gain=difference(three[2], three[1])) for name, three in values.items()]


def shown_classes(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """All in the data set's order, or, of very many, those whose AP changed most, the largest gain first."""
    if len(rows) <= MOST_CLASSES:
        return list(rows)
    changed = sorted((row for row in rows if row.gain is not None), key=lambda row: -(row.gain or 0))
    half = MOST_CLASSES // 2
    return changed if len(changed) <= MOST_CLASSES else changed[:half] + changed[-half:]


def _networks(run: RunResult) -> dict[str, Checkpoint]:
    return {"teacher": run.teacher, "baseline": run.baseline, "student": run.student}


def _curves(run: RunResult) -> dict[str, dict[str, list[tuple[float, float]]]]:
    return {name: report_plots.read_curves(network.root / "curves.csv") for name, network in _networks(run).items()}


def _measured(run: RunResult, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Plots of what validate measured."""
    shown = engines(summary)
    curves = {**_precision(run.references), **_precision({target.config.name: target.report for target in run.targets})}
    best = max((t for t in run.targets if t.config.name in curves), key=lambda t: t.report.facts.accuracy.map or 0, default=None)  # type: ignore[union-attr]
    styles = {target.config.name: _STYLES[target.config.precision] for target in run.targets}
    named = {
        NETWORKS.get(name, name).lower() if name in run.references else name: (
            name if name in run.references else "student",
            styles.get(name, "solid"),
            found,
        )
        for name, found in curves.items()
    }
    rows = _latency_rows(summary)
    return {
        "tradeoff": [chart for chart in (report_plots.tradeoff(shown, 900, 430), report_plots.tradeoff(shown, 380, 380)) if chart],
        "latency": rows,
        "slowest": max((sum(row["parts"].values()) for row in rows), default=1) or 1,
        "precision_recall": report_plots.precision_recall(named, 460, 380),
        "precision_recall_lines": [(name, series, style) for name, (series, style, _) in named.items()],
        "class_curves": _class_curves(run, curves, best.config.name) if best else [],
        "best": best.config.name if best else None,
    }


def _precision(reports: Mapping[str, Report]) -> dict[str, dict[str, Any]]:
    """The precision-recall curves of the reports that have some."""
    return {name: read_json(report.file("curves.json")) for name, report in reports.items() if report.facts.accuracy is not None}


def _class_curves(run: RunResult, curves: Mapping[str, Mapping[str, Any]], best: str) -> list[Panel]:
    series = {key: curves[name] for key, name in (("teacher", "teacher"), ("baseline", "baseline"), ("student", best)) if name in curves}
    own = series["student"]["iou_50"]["per_class"]
    defined = [name for name in run.dataset.facts.contract.classes if own.get(name) is not None]
    if len(defined) > MOST_CURVES:
        defined = sorted(defined, key=lambda name: report_plots.average(own[name]) or 0)[:MOST_CURVES]
    return report_plots.class_curves(series, defined)


def _latency_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Medians of each measured engine's parts, the fastest first."""
    every = [(NETWORKS[name].lower(), name, found) for name, found in summary["references"].items()]
    every += [(name, "student", found) for name, found in summary["targets"].items()]
    rows = [
        {"name": name, "series": series, "parts": {part: found["latency_ms"][part]["p50"] for part in PARTS}, "total": found["latency_ms"]["end_to_end"]}
        for name, series, found in every
        if found["latency_ms"]
    ]
    return sorted(rows, key=lambda row: float(row["total"]["p50"]))


def _pictures(run: RunResult) -> dict[str, Any]:
    split = run.config.validation.split
    ids = report_pictures.choose(run.dataset, split, run.student)
    return {
        "photos": report_pictures.photos(run.dataset, split, _networks(run), ids),
        "gazes": report_pictures.gazes(run.dataset, split, run.student, ids),
        "num_pictures": len(ids),
        "score": report_boxes.SCORE,
        "iou": report_boxes.IOU,
    }


def _facts(run: RunResult) -> dict[str, Any]:
    """What the figures depend on beside the configuration."""
    dataset = run.dataset.facts
    measured = next((target.report.facts for target in run.targets if target.report.facts.latency), None)
    return {
        "machine": measured.machine if measured else machine.identity(),
        "versions": {"python": platform.python_version(), **{name: v for name in _DISTRIBUTIONS if (v := _version(name))}},
        "dataset": run.config.data.dataset,
        "splits": {name: (split.num_images, split.num_boxes) for name, split in dataset.splits.items()},
        "problems": dataset.num_problems,
        "size": (dataset.contract.preprocessing.width, dataset.contract.preprocessing.height),
        "engines": {target.config.name: _engine(target) for target in run.targets},
        "yaml": yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _engine(target: TargetResult) -> dict[str, str]:
    facts = target.engine.facts
    return {"sha256": facts.sha256[:16], **facts.fingerprint} if facts.sha256 else {}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
