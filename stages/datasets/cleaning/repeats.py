"""Objects that are written twice: the same class, box and mask in the same image. They count once."""

from collections.abc import Iterator, Mapping

import numpy as np

from stages.datasets.tables.rows import Row, Rows
from stages.notes import Kind, Notes

TWICE = Kind("object written twice", "repaired", "boxes")

_SAME = ("image_id", "category_id", "bbox", "iscrowd", "segmentation")


def once(rows: Rows, names: Mapping[int, str], notes: Notes, split: str) -> Rows:
    """The cleaned rows, each object once.

    Args:
        names: the file of each image.
    """
    keys = (hash((row["image_id"], row["category_id"], *row["bbox"])) for row in rows.light())
    _, place, counts = np.unique(np.fromiter(keys, np.int64, len(rows)), return_inverse=True, return_counts=True)
    several = counts[place] > 1
    return Rows.kept(_once(rows, several.tolist(), names, notes, split)) if several.any() else rows


def _once(rows: Rows, several: list[bool], names: Mapping[int, str], notes: Notes, split: str) -> Iterator[Row]:
    seen: set[str] = set()
    for row, may_be_again in zip(rows, several, strict=True):
        if may_be_again:
            same = str([row.get(key) for key in _SAME])
            if same in seen:
                name = names[row["image_id"]]
                notes.add(TWICE, split, f"annotation {row['id']} of {name}, bbox {row['bbox']}", image=name)
                continue
            seen.add(same)
        yield row
