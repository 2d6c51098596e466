"""Figures of robustness: mAP of every engine on other splits, in groups and under corruptions; the student's lead over the baseline."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.accuracy import coco
from deploy.accuracy.conditions import Condition
from deploy.comparison import metrics
from deploy.comparison.bootstrap import RESAMPLES, fall
from deploy.comparison.compare import SWEEP_RESAMPLES
from deploy.comparison.interval import MIN_IMAGES, OUTSIDE
from deploy.comparison.robustness import Findings, InGroup, OnSplit, RobustnessFigures, SweepFigures, ratio
from stages.artifacts import WORST, Dataset, Report, Robustness, Stress
from stages.config import RobustnessConfig
from stages.facts import RobustLead, RobustnessFacts, WorstImage, write_facts
from stages.measurement.groups import digests, groups_of
from stages.measurement.robust import AT, Elsewhere
from stages.stage import stage

STUDENT, BASELINE, TEACHER = "float", "baseline", "teacher"
"""The engines that are compared as networks: all three are exported graphs in fp32."""

TITLES = {STUDENT: "student"}

NUM_WORST = 6


def identity(config: RobustnessConfig, *others: object) -> dict[str, str]:
    """The content of the files that groups are read from."""
    return digests(config)


@stage(version=3, identity=identity)
def assess(
    out: Path, config: RobustnessConfig, split: str, dataset: Dataset, reports: Mapping[str, Report], sweep: Stress | None = None
) -> Robustness:
    """The figures of every engine that could be measured.

    Args:
        reports: by the engine's name, and "engine@split" on other splits.
        sweep: detections in corrupted images, if asked for.
    """
    elsewhere = Elsewhere(config, split, dataset, reports, sweep)
    names = [name for name, report in reports.items() if AT not in name and report.facts.accuracy is not None]
    found = {name: elsewhere.findings(name) for name in names}
    engines = {name: _figures(elsewhere, found[name], name) for name in names}
    leads = tuple(_leads(engines, found)) if STUDENT in found and BASELINE in found else ()
    worst = tuple(_worst_images(found, config)) if STUDENT in found else ()
    (out / WORST).write_text(json.dumps(_seen(found, worst)), encoding="utf-8")
    write_facts(out, RobustnessFacts(split=split, engines=engines, leads=leads, worst_images=worst))
    return Robustness(out)


def _seen(found: Mapping[str, Findings], worst: Sequence[WorstImage]) -> dict[str, dict[str, list[Any]]]:
    """What the networks find in these images, by split and network."""
    seen: dict[str, dict[str, list[Any]]] = {}
    for split in {image.split: None for image in worst}:
        ids = {image.image_id for image in worst if image.split == split}
        for name in (TEACHER, BASELINE, STUDENT):
            if name in found:
                rows = [one for one in found[name].found(Condition(split)) if one["image_id"] in ids]
                seen.setdefault(split, {})[TITLES.get(name, name)] = rows
    return seen


def _figures(elsewhere: Elsewhere, findings: Findings, name: str) -> RobustnessFigures:
    config = elsewhere.config
    splits = {}
    for one in config.splits:
        accuracy = elsewhere.reports[f"{name}{AT}{one}"].facts.accuracy
        assert accuracy is not None
        splits[one] = OnSplit(num_images=accuracy.num_images, map=accuracy.map, map_50=accuracy.map_50)
    groups: dict[str, dict[str, InGroup]] = {}
    for group in groups_of(config, elsewhere.split, elsewhere.dataset):
        matches, inside = findings.group(group)
        counts = len(group.images) >= config.min_images
        figures = InGroup(num_images=len(group.images), map=matches.mean_precision(inside), counts=counts)
        groups.setdefault(group.grouping, {})[group.name] = figures
    return RobustnessFigures(splits=splits, groups=groups, sweep=_sweep(elsewhere, findings) if elsewhere.sweep is not None else None)


def _sweep(elsewhere: Elsewhere, findings: Findings) -> SweepFigures:
    assert elsewhere.config.corruptions is not None
    truth = findings.truth(findings.sweep[0])
    clean = _map(truth, findings.plain())
    maps: dict[str, dict[int, float | None]] = {}
    for one in findings.sweep:
        maps.setdefault(str(one.corruption), {})[one.severity] = _map(truth, findings.found(one))
    every = [value for row in maps.values() for value in row.values()]
    defined = [value for value in every if value is not None]
    mpc = sum(defined) / len(defined) if defined and len(defined) == len(every) else None
    return SweepFigures(
        mode=elsewhere.config.corruptions, num_images=len(truth["images"]), clean=clean, mpc=mpc, rpc=ratio(mpc, clean), maps=maps
    )


def _map(truth: Mapping[str, Any], found: Any) -> float | None:
    return coco.evaluate(truth, found, "", ())[0].map


def _leads(engines: Mapping[str, RobustnessFigures], found: Mapping[str, Findings]) -> list[RobustLead]:
    """The student's lead over the baseline in each metric, image by image."""
    leads = []
    own, other = engines[STUDENT].values(), engines[BASELINE].values()
    for metric, value in own.items():
        resamples = SWEEP_RESAMPLES if metric in {metrics.MPC, metrics.RPC} else RESAMPLES
        (statistic, num_images, num_with_objects), (against, *_) = (found[name].statistic(metric) for name in (STUDENT, BASELINE))
        lower = None
        if num_with_objects >= MIN_IMAGES:
            lower = fall(statistic, against, num_images, relative=False, error_rate=OUTSIDE, resamples=resamples)
        rise = None if lower is None else lower.reversed()
        before = other.get(metric)
        gain = None if value is None or before is None else value - before
        ends = {"low": rise and rise.low, "high": rise and rise.high}
        leads.append(RobustLead(metric=metric, num_images=num_images, student=value, baseline=before, gain=gain, **ends))
    return leads


def _worst_images(found: Mapping[str, Findings], config: RobustnessConfig) -> list[WorstImage]:
    """The images of the other splits, or without these of the judged one, on which the student's own mAP is lowest."""
    rows: list[tuple[float, float, WorstImage]] = []
    for split in config.splits or (found[STUDENT].split,):
        here = Condition(split)
        matches = {name: found[name].matches(here) for name in (TEACHER, BASELINE, STUDENT) if name in found}
        images = sorted(found[STUDENT].truth(here)["images"], key=lambda image: int(image["id"]))
        counts = sum(one.objects for one in matches[STUDENT].classes.values())
        for image, count, only in zip(images, np.broadcast_to(counts, len(images)), np.eye(len(images)), strict=True):
            own = matches[STUDENT].mean_precision(only)
            if own is not None:
                maps = {TITLES.get(name, name): one.mean_precision(only) for name, one in matches.items()}
                rows.append((own, -float(count), WorstImage(split=split, image_id=image["id"], file_name=image["file_name"], maps=maps)))
    rows.sort(key=lambda row: (*row[:2], row[2].split, row[2].image_id))
    return [row[2] for row in rows[:NUM_WORST]]
