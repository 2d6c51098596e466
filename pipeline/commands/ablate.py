"""`edgedistill ablate`: the gain from each loss, all losses together, and images without labels over the baseline, with several seeds.

A target with `int8: {finetune: true}` adds rows for its int8, post-training and trained.

Trainings are stages of `edgedistill run`: the store keeps them and reuses what a run has trained.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deploy.contract import Accuracy
from deploy.engines import int8_training
from deploy.errors import ConfigError
from pipeline.arena.trainings import Arena, judged
from pipeline.arena.variants import Variant, ablation
from pipeline.commands.check import before_trainings
from pipeline.config import PipelineConfig, load
from pipeline.results.ablation import TOGETHER, Ablation, ablation_of, render
from pipeline.store.files import replace_json
from pipeline.store.store import Store
from pipeline.terminal.answer import Answer, say, silent
from stages.artifacts import Checkpoint


def ablate(args: argparse.Namespace) -> Answer:
    """Train every variant at every seed, seed by seed; write ablation.json and ablation.html next to the run's report."""
    config = load(Path(args.config), args.settings)
    if args.seeds < 1:
        raise ConfigError(f"--seeds is {args.seeds}; pass 1 or more, or 3 or more for a meaningful interval")
    importlib.import_module("scipy.stats")  # the intervals need it: fail now rather than after all trainings
    counts = _counts(args.unlabelled, config)
    variants = ablation(config, counts)
    log = partial(say, stream=sys.stderr if args.json else sys.stdout)
    store = Store(Path(args.runs), config.name, say=log, before=before_trainings(config))
    if store.rank > 0:
        store.say = silent
    arena, seeds = Arena.of(config, store), range(config.seed, config.seed + args.seeds)
    _refuse_missing(counts, arena)
    teacher = arena.teacher()
    trained = [{variant.name: arena.train(variant, seed) for variant in variants} for seed in seeds]
    tuned = _tuned(arena, variants, seeds, trained)
    if store.rank > 0:
        return Answer({}, "")
    arena.tidy()
    from pipeline.report.ablation_page import write_page

    measured = from_students(config.name, seeds, teacher, trained, int8_maps(tuned))
    folder = store.root / config.name
    write_page(measured, folder / "ablation.html")
    figures = _figures(measured)
    replace_json(folder / "ablation.json", {"format": 1, **figures})
    return Answer(figures, "\n".join(["", render(measured), "", str(folder / "ablation.json"), str(folder / "ablation.html")]))


def _tuned(
    arena: Arena, variants: Sequence[Variant], seeds: Sequence[int], trained: Sequence[Mapping[str, Checkpoint]]
) -> dict[str, list[Checkpoint]]:
    """For each target that asks for it, the student of all losses trained for its int8, at every seed."""
    names = [variant.name for variant in variants]
    chosen = variants[names.index(TOGETHER) if TOGETHER in names else 1]
    targets = [target for target in arena.config.targets if target.finetunes]
    runs = [*zip(seeds, trained, strict=True)]
    return {target.name: [arena.tuned(target, chosen, seed, found[chosen.name]) for seed, found in runs] for target in targets}


def int8_maps(tuned: Mapping[str, Sequence[Checkpoint]]) -> dict[str, list[float]]:
    """mAP of post-training int8 and of the network trained for it, kept or not, at every seed; a target without training has no row."""
    found: dict[str, list[float]] = {}
    for name, networks in tuned.items():
        figures = [int8_training.read(one.root) for one in networks]
        for title, key in (("post-training int8", "post_training_map"), ("trained for int8", "trained_map")):
            values = [getattr(one, key) for one in figures]
            if all(value is not None for value in values):
                found[f"{name}, {title}"] = values
    return found


def _counts(given: Sequence[int], config: PipelineConfig) -> list[int]:
    """The numbers of images without labels that are compared.

    Raises:
        ConfigError: numbers below 1 or that are repeated, or a student that uses no such images.
    """
    for count in given:
        if count < 1:
            raise ConfigError(f"--unlabelled is {count}; pass 1 or more")
        if given.count(count) > 1:
            raise ConfigError(f"--unlabelled has {count} {given.count(count)} times; pass each number once")
    if given and config.distill.from_unlabelled is None:
        raise ConfigError("--unlabelled needs images without labels; set data.unlabelled and distill.unlabelled")
    return sorted(given)


def _refuse_missing(counts: Sequence[int], arena: Arena) -> None:
    """Refuse more images without labels than there are.

    Raises:
        ConfigError: the number that is too large.
    """
    if counts and counts[-1] > (usable := arena.num_unlabelled):
        raise ConfigError(f"--unlabelled is {counts[-1]}, but only {usable} images without labels are usable; pass at most {usable}")


def _figures(measured: Ablation) -> dict[str, Any]:
    """For ablation.json; `masks` has the same keys, or is null."""
    closed = {name: measured.closed(name) for name in measured.gains}
    return asdict(measured) | {"gap_closed": closed, "masks": None if measured.masks is None else _figures(measured.masks)}


def from_students(
    name: str,
    seeds: Sequence[int],
    teacher: Checkpoint,
    trained: Sequence[Mapping[str, Checkpoint]],
    more: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Ablation:
    """The gains, from the students of each seed by their variants' names, and from `more` mAPs.

    Raises:
        DataError: mAP is undefined on the split.
    """
    accuracy = teacher.facts.accuracy
    maps = {one: [judged(students[one]) for students in trained] for one in trained[0]}
    masks = {one: [_mask_map(students[one].facts.accuracy) for students in trained] for one in trained[0]}
    place = name, accuracy.split, accuracy.num_images, tuple(seeds)
    found = ablation_of(place, judged(teacher), {**maps, **more})
    if any(value is None for values in masks.values() for value in values):
        return found
    known = {one: [value for value in values if value is not None] for one, values in masks.items()}
    return replace(found, masks=ablation_of(place, _mask_map(accuracy), known))


def _mask_map(accuracy: Accuracy) -> float | None:
    return None if accuracy.segmentation is None else accuracy.segmentation.map
