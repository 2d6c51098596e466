"""Images with more objects than are found in one: no engine, no accuracy and no pseudo-label can have the others."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from stages.artifacts import Dataset
from stages.datasets.tables.rows import light
from stages.notes import Kind, Note, Notes

BEYOND = Kind("objects that no engine can find", "left out", "boxes")


def noted(dataset: Dataset, most: int) -> tuple[Note, ...]:
    """What was repaired, assumed or left out, and objects that a graph of at most `most` detections will not find."""
    return dataset.facts.notes + crowded(dataset, most)


def crowded(dataset: Dataset, most: int) -> tuple[Note, ...]:
    """A note on each split that has images with more than `most` objects, the fullest first; crowds are not counted."""
    notes = []
    for split, own in dataset.facts.splits.items():
        if not own.num_images:
            continue
        table = dataset.table(split)
        counts = np.diff(table.first)
        full = {table.name(int(row)): int(counts[row]) for row in np.flatnonzero(counts > most)}
        notes += beyond(split, full, int(counts.sum()), most)
    return tuple(notes)


def crowded_source(split: str, coco: Mapping[str, Any], most: int) -> list[Note]:
    """As `crowded`, of one split as it was read, before it is cleaned."""
    counts = Counter(row.get("image_id") for row in light(coco["annotations"]) if not row.get("iscrowd"))
    full = {row["file_name"]: counts[row["id"]] for row in coco["images"] if counts[row["id"]] > most}
    return beyond(split, full, counts.total(), most)


def beyond(split: str, full: Mapping[str, int], total: int, most: int) -> list[Note]:
    """The note, if any, on images with these numbers of objects, all above `most`; the split has `total` objects."""
    notes = Notes()
    for name, count in sorted(full.items(), key=lambda one: -one[1]):
        text = f"{name} has {count}, at most {most} are found in an image; see export.max_detections"
        notes.add(BEYOND, split, text, image=name, count=count - most)
    return [note.model_copy(update={"total": total}) for note in notes]
