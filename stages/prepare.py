"""The first stage: any kind of data set becomes cleaned COCO files and a contract of classes and preprocessing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy import plugins
from deploy.contract import ModelContract
from deploy.errors import DataError
from stages.artifacts import Dataset
from stages.config import DataConfig
from stages.datasets import Source
from stages.datasets.cleaning import bundle_classes, clean, images, rules
from stages.facts import DatasetFacts, Split, write_facts
from stages.stage import stage


def identity(config: DataConfig, *others: object) -> dict[str, Any]:
    """What identifies the data set's content, in addition to its options.

    Raises:
        DataError: the data is not where the options say.
    """
    found: dict[str, Any] = plugins.load("stages.datasets", config.dataset).identity(**config.options)
    return found


def find(out: Path, config: DataConfig) -> dict[str, Source]:
    """The splits as they are found; a data set that is generated is written under `out`.

    Raises:
        DataError: the data is not where the options say, or cannot be read.
    """
    found: dict[str, Source] = plugins.load("stages.datasets", config.dataset).build(out, **config.options)
    return found


@stage(version=1, identity=identity)
def prepare(out: Path, config: DataConfig) -> Dataset:
    """Read, check and clean every split into out/annotations/<split>.json.

    Raises:
        DataError: annotations that contradict themselves (see stages/datasets/cleaning/rules.py), a split without a usable image, a train
            split without a usable box; with `strict`, anything that cleaning would leave out or correct.
    """
    return _collect(out, config, find(out, config), rules.REQUIRED_SPLITS)


@stage(version=2, identity=identity)
def gather(out: Path, config: DataConfig, split: str, more: tuple[str, ...], expected: ModelContract) -> Dataset:
    """Like `prepare`, for data on which engines are judged but not trained: the split `split`, and those of `more` that exist.

    Its classes are matched by name with the expected ones, and get their numbers.

    Raises:
        DataError: as `prepare`; no such split; a class that is not expected.
    """
    sources = find(out, config)
    if split not in sources:
        there = ", ".join(sources) or "no split"
        raise DataError(f"{config.options.get('root')}: no split {split}; the data has {there}; choose one to judge on with --split NAME")
    wanted = {name: source for name, source in sources.items() if name in (split, *more)}
    return _collect(out, config, bundle_classes.numbered_as(expected, wanted), (split,))


def _collect(out: Path, config: DataConfig, sources: Mapping[str, Source], required: Sequence[str]) -> Dataset:
    rules.check_splits(sources, required)
    names = rules.categories(next(iter(sources.values())).coco)
    problems = clean.Problems()
    cleaned = {split: _clean(split, source, problems) for split, source in sources.items()}
    if config.strict and problems.first() is not None:
        more = sum(problems.count.values()) - 1
        raise DataError(f"{problems.first()}{f' (and {more} more)' if more else ''}; fix the data, or set data.strict to false")
    for split, coco in cleaned.items():
        _check_enough(split, coco, problems, learns="train" in required)
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    splits = {split: _write(out, split, sources[split], coco) for split, coco in cleaned.items()}
    contract = ModelContract(preprocessing=config.preprocessing, classes=tuple(names.values()), category_ids=tuple(names))
    named = {kind: tuple(names) for kind, names in problems.named.items()}
    write_facts(out, DatasetFacts(contract=contract, splits=splits, problems=named, num_problems=problems.count))
    return Dataset(out)


def _clean(split: str, source: Source, problems: clean.Problems) -> dict[str, Any]:
    paths = [source.images / image["file_name"] for image in source.coco["images"]]
    return clean.clean(split, source, images.scan(paths, f"read {split} images"), problems)


def _check_enough(split: str, coco: Mapping[str, Any], problems: clean.Problems, *, learns: bool) -> None:
    why = f"; {problems.first()}" if problems.first() else ""
    if not coco["images"]:
        raise DataError(f"{split}: no usable image{why}")
    if learns and split == "train" and not any(not row["iscrowd"] for row in coco["annotations"]):
        raise DataError(f"train: no usable box to learn from{why}")


def _write(out: Path, split: str, source: Source, coco: Mapping[str, Any]) -> Split:
    file = f"annotations/{split}.json"
    (out / file).write_text(json.dumps(coco, allow_nan=False), encoding="utf-8")
    inside = source.images.is_relative_to(out)
    return Split(
        images=source.images.relative_to(out).as_posix() if inside else str(source.images.resolve()),
        annotations=file,
        num_images=len(coco["images"]),
        num_boxes=len(coco["annotations"]),
    )
