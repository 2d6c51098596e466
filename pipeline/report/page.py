"""report.html: a run in one file that opens offline and has no scripts; plots and pictures are embedded."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from deploy.machine import packages
from pipeline.report import boxes, environment, pictures, plots, words
from pipeline.report.data_notes import noted_kinds
from pipeline.report.engines import engine_plots
from pipeline.report.learning_plots import learning
from pipeline.report.pseudo_labels import pseudo_labels
from pipeline.report.robustness import robustness
from pipeline.results.gain_lines import gain_of, legend, warnings
from pipeline.results.summary import difference, summarize
from pipeline.results.table import trained_networks
from pipeline.results.verdicts import details
from pipeline.run_result import RunResult, TargetResult
from pipeline.store.files import replace_text
from stages.artifacts import LOSS_CURVES

MOST_CLASSES = 80
"""With more classes than this, the report lists those whose AP changed most."""

_FILTERS = (
    "begun",
    "fraction",
    "points",
    "change",
    "drifted",
    "convolutions",
    "percent",
    "milliseconds",
    "size",
    "count",
    "duration",
    "measured",
    "between",
    "lead",
)


SERIES = {"baseline, equal cost": "baseline_equal_cost"}
"""The names in summary.json and in the style sheet of networks that tables call differently."""


@dataclass(frozen=True)
class ClassRow:
    """Each network's AP over IoU 0.5 to 0.95 for one class, as fractions; `gain` is student minus the stronger baseline."""

    name: str
    teacher: float | None
    baseline: float | None
    student: float | None
    gain: float | None


def write_report(run: RunResult, file: Path) -> None:
    """Write the report of a run, completely or not at all.

    Raises:
        ArtifactError: an artifact of the run is damaged.
    """
    page = environment({name: getattr(words, name) for name in _FILTERS}).get_template("report.html.j2")
    replace_text(file, page.render(content(run)))


def content(run: RunResult) -> dict[str, Any]:
    """Everything that the template shows; every figure is also in summary.json."""
    summary = summarize(run)
    classes = class_rows(run)
    networks, gain = trained_networks(summary), gain_of(summary)
    over = {"baseline": gain.equal_steps, "baseline, equal cost": gain.equal_cost}
    series = {title: SERIES.get(title, title) for title in networks}
    own = run.config.distill.from_unlabelled
    curves = {name: plots.read_curves(run.networks[name].root / LOSS_CURVES) for name in series.values()}
    return {
        "summary": summary,
        "networks": words.NETWORKS,
        "rows": [(title, series[title], figures, over.get(title)) for title, figures in networks.items()],
        "about_baseline": "; ".join(legend(gain)),
        "sees_labels": own is None or not own.only,
        "unsure": warnings(gain),
        "forms": words.FORMS,
        "masks": any(figures["mask_map"] is not None for figures in (*networks.values(), *summary["targets"].values())),
        "headline": words.headline(summary),
        "changes": [details(verdict) for target in run.targets for verdict in target.verdicts.facts.verdicts],
        "verdicts": {name: words.worst(summary["gates"], name) for name in summary["targets"]},
        "split": run.config.validation.split,
        **engine_plots(run, summary),
        "learning": learning(summary, [*run.networks]),
        "training": dict(zip(("terms", "diagnostics"), plots.training(curves), strict=True)),
        "classes": most_changed(classes),
        "num_classes": len(classes),
        "noted": noted_kinds(run.dataset, run.notes),
        "pseudo": pseudo_labels(run),
        "robust": robustness(run, summary),
        **_pictures(run),
        **_cost(run),
        "facts": _facts(run),
    }


def class_rows(run: RunResult) -> list[ClassRow]:
    """Each class's AP, in the data set's order."""
    found = {key: network.facts.accuracy.per_class for key, network in run.shown.items()}
    rows = []
    for name in run.dataset.facts.contract.classes:
        teacher, baseline, student = (found.get(key, {}).get(name) for key in ("teacher", "baseline", "student"))
        rows.append(ClassRow(name, teacher, baseline, student, difference(student, baseline)))
    return rows


def most_changed(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """All rows in their order or, if there are very many, those whose AP changed most, the largest gain first; the first without gains."""
    if len(rows) <= MOST_CLASSES:
        return list(rows)
    gained = [(row.gain, row) for row in rows if row.gain is not None]
    changed = sorted(gained, key=lambda one: -abs(one[0]))[:MOST_CLASSES]
    return [row for _, row in sorted(changed, key=lambda one: -one[0])] or list(rows[:MOST_CLASSES])


def _pictures(run: RunResult) -> dict[str, Any]:
    split = run.config.validation.split
    ids = pictures.choose(run.dataset, split, run.student)
    return {
        "photos": pictures.photos(run.dataset, split, run.shown, ids),
        "gazes": pictures.gazes(run.dataset, split, run.student, ids),
        "num_pictures": len(ids),
        "score": boxes.SCORE,
        "iou": boxes.IOU,
    }


def _cost(run: RunResult) -> dict[str, Any]:
    """Seconds that this run took, that all stages take together, and that the longest stage takes."""
    seconds = [stage.seconds or 0.0 for stage in run.stages]
    now = sum(stage.seconds or 0.0 for stage in run.stages if not stage.reused)
    return {"spent": {"now": now, "all": sum(seconds)}, "longest": max(seconds, default=0.0) or 1.0}


def _facts(run: RunResult) -> dict[str, Any]:
    """What the figures depend on in addition to the configuration."""
    dataset = run.dataset.facts
    return {
        "machine": run.measurement.facts.machine,
        "versions": {"python": platform.python_version(), **packages.installed()},
        "dataset": run.config.data.dataset,
        "splits": {name: (split.num_images, split.num_boxes) for name, split in dataset.splits.items()},
        "size": (dataset.contract.preprocessing.width, dataset.contract.preprocessing.height),
        "engines": {target.config.name: _fingerprint(target) for target in run.targets},
        "yaml": yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _fingerprint(target: TargetResult) -> dict[str, str]:
    """Which engine was measured, with shortened hashes; empty if there is none."""
    facts = target.engine.facts
    every = {"sha256": facts.sha256, **facts.fingerprint} if facts.sha256 else {}
    return {key: value[:16] if key.endswith("sha256") else value for key, value in every.items() if value}
