"""Images with more objects than are found or counted: accuracy has no others, and engines and pseudo-labels may not have them either."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from deploy.accuracy.matches import MAX_DETECTIONS
from stages.artifacts import Dataset
from stages.datasets.cleaning.rules import categories
from stages.datasets.tables.rows import light
from stages.notes import Kind, Note, Notes

BEYOND = Kind("objects that no engine can find", "left out", "boxes")
UNCOUNTED = Kind("objects that mAP does not count", "left out", "boxes")
NOT_JUDGED = "train"
Key = TypeVar("Key")
Counts = Mapping[tuple[str, str], int]
"""Numbers of objects by image and class."""


def noted(dataset: Dataset, most: int) -> tuple[Note, ...]:
    """What was repaired, assumed or left out, and objects that a graph of at most `most` detections will not find or mAP not count."""
    return dataset.facts.notes + crowded(dataset, most)


def crowded(dataset: Dataset, most: int) -> tuple[Note, ...]:
    """Notes on each split that has images with more than `most` objects, or more of a class than COCO's mAP counts; crowds are left out."""
    names = dataset.facts.contract.classes
    notes: list[Note] = []
    for split, own in dataset.facts.splits.items():
        if own.num_images:
            table = dataset.table(split)
            images = np.repeat(np.arange(len(table)), np.diff(table.first))
            pairs, counts = np.unique(images * len(names) + table.labels, return_counts=True)
            found = zip(*np.divmod(pairs, len(names)), counts.tolist(), strict=True)
            notes += beyond(split, {(table.name(int(image)), names[label]): count for image, label, count in found}, most)
    return tuple(notes)


def crowded_source(split: str, coco: Mapping[str, Any], most: int) -> list[Note]:
    """As `crowded`, of one split as it was read, which passes `rules.check`, before it is cleaned."""
    names = {row["id"]: row["file_name"] for row in coco["images"]}
    classes = categories(coco)
    rows = (row for row in light(coco["annotations"]) if not row.get("iscrowd"))
    return beyond(split, Counter((names[row["image_id"]], classes[row["category_id"]]) for row in rows), most)


def beyond(split: str, counts: Counts, most: int) -> list[Note]:
    """The notes, if any, on a split with these objects; the fullest images come first."""
    notes = Notes()
    images = Counter[str]()
    for (name, _), count in counts.items():
        images[name] += count
    for name, count in _above(images, most):
        text = f"{name} has {count}, at most {most} are found in an image; see export.max_detections"
        notes.add(BEYOND, split, text, image=name, count=count - most)
    if most > MAX_DETECTIONS and split != NOT_JUDGED:
        for (name, kind), count in _above(counts, MAX_DETECTIONS):
            text = f"{name} has {count} of {kind}, and COCO's mAP takes the best {MAX_DETECTIONS} detections of a class in an image"
            notes.add(UNCOUNTED, split, text, image=name, count=count - MAX_DETECTIONS)
    return [note.model_copy(update={"total": images.total()}) for note in notes]


def _above(counts: Mapping[Key, int], most: int) -> Iterator[tuple[Key, int]]:
    """Those above a number, the highest first."""
    yield from sorted(((one, count) for one, count in counts.items() if count > most), key=lambda one: -one[1])
