"""`edgedistill ablate`: the gain from each loss, all losses together, and images without labels over the baseline, with several seeds.

Trainings are stages of `edgedistill run`: the store keeps them and reuses what a run has trained.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from deploy.contract import Accuracy
from deploy.errors import ConfigError, DataError
from pipeline.answer import Answer, say, silent
from pipeline.commands.check import before_trainings
from pipeline.config import PipelineConfig, load
from pipeline.flow import collected, labeled, prepared
from pipeline.results.ablation import BASELINE, TOGETHER, Ablation, ablation_of, render
from pipeline.store.files import replace_json
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, PseudoLabels
from stages.config import DistillConfig, LossConfig
from stages.distill import distill
from stages.train import train_baseline, train_teacher


def ablate(args: argparse.Namespace) -> Answer:
    """Train every variant at every seed, seed by seed; write ablation.json and ablation.html next to the run's report."""
    config = load(Path(args.config), args.settings)
    if args.seeds < 1:
        raise ConfigError(f"--seeds is {args.seeds}; pass 1 or more, or 3 or more for a meaningful interval")
    importlib.import_module("scipy.stats")  # the intervals need it: fail now rather than after all trainings
    log = partial(say, stream=sys.stderr if args.json else sys.stdout)
    store = Store(Path(args.runs), config.name, say=log, before=before_trainings(config))
    if store.rank > 0:
        store.say = silent
    measured = measure(config, store, tuple(range(config.seed, config.seed + args.seeds)))
    if store.rank > 0:
        return Answer({}, "")
    from pipeline.report.ablation_page import write_page

    folder = store.root / config.name
    write_page(measured, folder / "ablation.html")
    figures = _figures(measured)
    replace_json(folder / "ablation.json", {"format": 1, **figures})
    return Answer(figures, "\n".join(["", render(measured), "", str(folder / "ablation.json"), str(folder / "ablation.html")]))


def _figures(measured: Ablation) -> dict[str, Any]:
    """For ablation.json; `masks` has the same keys, or is null."""
    closed = {name: measured.closed(name) for name in measured.gains}
    return asdict(measured) | {"gap_closed": closed, "masks": None if measured.masks is None else _figures(measured.masks)}


def variants(config: PipelineConfig) -> dict[str, tuple[LossConfig, ...]]:
    """The losses of each variant by its name: none, each loss by itself and, if there are several, all of them as configured.

    Raises:
        ConfigError: no loss has a weight above 0.
    """
    losses = [loss for loss in config.distill.losses if loss.enabled]
    if not losses:
        raise ConfigError("distill.losses: all have weight 0, so there is nothing to compare; set one weight above 0")
    alone: dict[str, tuple[LossConfig, ...]] = {loss.name: (loss,) for loss in losses}
    return {BASELINE: (), **alone, **({TOGETHER: config.distill.losses} if len(losses) > 1 else {})}


def unlabelled_variants(config: PipelineConfig) -> dict[str, DistillConfig]:
    """With `distill.unlabelled`: all losses, and what each part of the section adds to them; empty without it."""
    own = config.distill.from_unlabelled
    if own is None:
        return {}
    parts: dict[str, dict[str, Any]] = {"unlabelled features": {"pseudo": None, "refine": None, "features": True}} if not own.only else {}
    if own.pseudo is not None:
        parts["unlabelled pseudo-labels"] = {"features": False, "refine": None}
        parts["unlabelled, both"] = {"features": True, "refine": None}
    if own.refine is not None:
        parts["unlabelled, refined"] = {"refine": own.refine}
    return {name: config.distill.model_copy(update={"unlabelled": own.model_copy(update=part)}) for name, part in parts.items()}


def measure(config: PipelineConfig, store: Store, seeds: Sequence[int]) -> Ablation:
    """Train what the store lacks; one teacher, trained with the configuration's own seed, is used for every seed.

    Raises:
        DataError: mAP is undefined on the split.
    """
    split, device, decisions = config.validation.split, config.device, config.export.decisions
    dataset = prepared(config, store)
    pool = collected(config, store, dataset)
    own = pool if config.teacher.from_unlabelled is not None else None
    teacher = store.run(train_teacher, config.teacher, config.seed, device, split, dataset, decisions, own)
    labels = labeled(config, store, dataset, pool, teacher)
    trained: dict[str, list[Accuracy]] = {name: [] for name in (*variants(config), *unlabelled_variants(config))}
    for seed in seeds:
        for name, student in _students(config, store, seed, dataset, teacher, labels):
            trained[name].append(student.facts.accuracy)
    maps = {name: [_map(one) for one in values] for name, values in trained.items()}
    masks = {name: [_mask_map(one) for one in values] for name, values in trained.items()}
    judged = config.name, split, teacher.facts.accuracy.num_images, tuple(seeds)
    found = ablation_of(judged, _map(teacher.facts.accuracy), maps)
    if any(value is None for values in masks.values() for value in values):
        return found
    known = {name: [value for value in values if value is not None] for name, values in masks.items()}
    return replace(found, masks=ablation_of(judged, _mask_map(teacher.facts.accuracy), known))


def _students(
    config: PipelineConfig, store: Store, seed: int, dataset: Any, teacher: Checkpoint, labels: PseudoLabels | None
) -> Iterator[tuple[str, Checkpoint]]:
    """Each variant's name and student; all have the same initialization and the same images in the same order."""
    split, device, decisions = config.validation.split, config.device, config.export.decisions
    for name, losses in variants(config).items():
        view = store.at(f"{name}, seed {seed}")
        if losses:
            chosen = config.distill.labeled.model_copy(update={"losses": losses})
            yield name, view.run(distill, chosen, config.student, seed, device, split, dataset, teacher, decisions)
        else:
            yield name, view.run(train_baseline, config.student, seed, device, split, dataset, decisions)
    for name, chosen in unlabelled_variants(config).items():
        view = store.at(f"{name}, seed {seed}")
        yield name, view.run(distill, chosen, config.student, seed, device, split, dataset, teacher, decisions, labels)


def _mask_map(accuracy: Accuracy) -> float | None:
    return None if accuracy.segmentation is None else accuracy.segmentation.map


def _map(accuracy: Accuracy) -> float:
    if accuracy.map is None:
        raise DataError(
            f"mAP is undefined on split {accuracy.split}: it has no objects; choose a different one with --set validation.split=..."
        )
    return accuracy.map
