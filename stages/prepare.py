"""The first stage: any kind of data set becomes cleaned COCO files and a contract of classes and preprocessing."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy import plugins
from deploy.contract import ModelContract, Preprocessing
from deploy.errors import DataError
from stages.artifacts import FIELDS, TABLES, Dataset
from stages.config import DataConfig
from stages.datasets import Source
from stages.datasets.cleaning import bundle_classes, clean, images, limits, pixels, rules
from stages.datasets.splits.arrange import arrange
from stages.datasets.tables import coco_file, table
from stages.datasets.tables.rows import light
from stages.facts import DatasetFacts, Split, write_facts
from stages.notes import Note, Notes, Unit
from stages.stage import stage

COCO_KEYS = frozenset({"id", "file_name", "width", "height"})
LONGEST_FIELD = 100


def identity(config: DataConfig, *others: object) -> dict[str, Any]:
    """What identifies the data set's content, in addition to its options.

    Raises:
        DataError: the data is not where the options say.
    """
    found: dict[str, Any] = plugins.load("stages.datasets", config.dataset).identity(**config.options)
    return found


def find(out: Path, config: DataConfig) -> dict[str, Source]:
    """The splits by our names; a data set that is generated is written under `out`.

    Raises:
        DataError: the data is not where the options say, or cannot be read or divided as they say.
    """
    found: dict[str, Source] = plugins.load("stages.datasets", config.dataset).build(out, **config.options)
    return arrange(found, config.splits, config.val_share, config.split_seed, config.preprocessing)


@stage(version=4, identity=identity)
def prepare(out: Path, config: DataConfig) -> Dataset:
    """Read, check and clean every split into out/annotations/<split>.json and out/tables/<split>/.

    Raises:
        DataError: annotations that contradict themselves (see stages/datasets/cleaning/rules.py), a split without a usable image, a train
            split with boxes of which none is usable; more left out or assumed than `max_doubtful` allows; with `strict`, anything that
            reading or cleaning repairs, assumes or leaves out.
    """
    with _begun(config) as ahead:
        return _collect(out, config, find(out, config), rules.REQUIRED_SPLITS, ahead=ahead)


@contextmanager
def _begun(config: DataConfig) -> Iterator[images.Begun | None]:
    """The images, which are decoded while their annotations are read, if the kind of data set knows them before.

    Images of data that is divided are decoded first, to compare them.
    """
    named = getattr(plugins.load("stages.datasets", config.dataset), "image_files", None)
    if named is None or config.val_share is not None:
        yield None
        return
    with images.begun(named(**config.options), config.preprocessing) as ahead:
        yield ahead


@stage(version=4, identity=identity)
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
    return _collect(out, config, bundle_classes.numbered_as(expected, wanted), (split,), remedy="pass --max-doubtful")


def _collect(
    out: Path,
    config: DataConfig,
    sources: Mapping[str, Source],
    required: Sequence[str],
    *,
    remedy: str = "set data.max_doubtful to",
    ahead: images.Begun | None = None,
) -> Dataset:
    rules.check_splits(sources, required)
    names = rules.categories(next(iter(sources.values())).coco)
    cleaned = {split: _clean(split, source, config.preprocessing, ahead) for split, source in sources.items()}
    _check_strict(config, [note for _, notes in cleaned.values() for note in notes])
    for split, (coco, notes) in cleaned.items():
        _check_enough(split, sources[split], coco, notes, learns="train" in required)
    doubts = [doubt for split, (_, notes) in cleaned.items() for doubt in limits.doubts(split, sources[split], notes)]
    if refused := limits.refusal(doubts, config.max_doubtful, remedy):
        raise DataError(refused)
    labels = {category: label for label, category in enumerate(names)}
    splits = {split: _write(out, split, sources[split], coco, labels) for split, (coco, _) in cleaned.items()}
    _keep_fields(out, sources)
    contract = ModelContract(preprocessing=config.preprocessing, classes=tuple(names.values()), category_ids=tuple(names))
    every = tuple(note for _, notes in cleaned.values() for note in notes)
    write_facts(out, DatasetFacts(contract=contract, splits=splits, notes=every))
    return Dataset(out)


def _clean(split: str, source: Source, preprocessing: Preprocessing, ahead: images.Begun | None) -> tuple[dict[str, Any], tuple[Note, ...]]:
    """The split's cleaned COCO dictionary, and the notes on reading and cleaning it."""
    paths = [source.images / image["file_name"] for image in source.coco["images"]]
    files = images.scan(paths, f"read {split} images", preprocessing, ahead=ahead)
    notes = Notes()
    pixels.add(notes, split, images.stored(source.coco["images"], files), preprocessing)
    coco = clean.clean(split, source, files, notes)
    return coco, limits.with_totals(source, notes)


def _check_strict(config: DataConfig, notes: Sequence[Note]) -> None:
    found = [note for note in notes if note.action != "divided"]
    if config.strict and found:
        more = f" (and {len(found) - 1} more kinds)" if len(found) > 1 else ""
        raise DataError(f"{found[0]}{more}; fix the data, or set data.strict to false")


def _check_enough(split: str, source: Source, coco: Mapping[str, Any], notes: Sequence[Note], *, learns: bool) -> None:
    if not coco["images"]:
        raise DataError(f"{split}: no usable image{_why(notes, 'images')}")
    if learns and split == "train" and limits.totals(source)["boxes"] and all(row["iscrowd"] for row in light(coco["annotations"])):
        raise DataError(f"train: {rules.NO_BOX}{_why(notes, 'boxes')}")


def _why(notes: Sequence[Note], unit: Unit) -> str:
    """What most of these were left out for; otherwise the first note."""
    lost = sorted((note for note in reversed(notes) if (note.action, note.unit) == ("left out", unit)), key=lambda note: -note.count)
    found = next(iter((*lost, *notes)), None)
    return "" if found is None else f"; {found}"


def _keep_fields(out: Path, sources: Mapping[str, Source]) -> None:
    """Write what the annotations say of images in addition to COCO's keys, by which robustness may group them."""
    for split, source in sources.items():
        rows = {row["id"]: _fields(row) for row in source.coco["images"]}
        if known := {number: row for number, row in rows.items() if row}:
            (out / FIELDS).mkdir(exist_ok=True)
            (out / FIELDS / f"{split}.json").write_text(json.dumps(known), encoding="utf-8")


def _fields(row: Mapping[str, Any]) -> dict[str, str]:
    """The short values, as text; NaN is how some tools write that there is none."""
    own = {key: value for key, value in row.items() if key not in COCO_KEYS and isinstance(value, str | int | float)}
    told = {key: str(value) for key, value in own.items() if isinstance(value, str) or not math.isnan(value)}
    return {key: value for key, value in told.items() if 0 < len(value) <= LONGEST_FIELD}


def _write(out: Path, split: str, source: Source, coco: Mapping[str, Any], labels: Mapping[int, int]) -> Split:
    table.write(out / TABLES / split, coco, labels)
    file = f"annotations/{split}.json"
    coco_file.write(out / file, coco)
    inside = source.images.is_relative_to(out)
    return Split(
        images=source.images.relative_to(out).as_posix() if inside else str(source.images.resolve()),
        annotations=file,
        num_images=len(coco["images"]),
        num_boxes=len(coco["annotations"]),
    )
