"""What a folder of labeled images holds: splits, classes, the sizes of images and objects."""

import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import plugins
from deploy.errors import DataError
from deploy.prediction.detections import class_names
from stages.datasets import Source
from stages.datasets.cleaning import rules
from stages.datasets.cleaning.images import size
from stages.datasets.layouts.recognize import recognize
from stages.notes import Note

MOST_HEADERS = 2000
"""Image files of which the size is read, if the annotations do not have it; the others count as their median."""


@dataclass(frozen=True)
class LabeledFolder:
    """A data set as its reader sees it.

    options: the reader's options; sources: its splits. classes: the number of boxes of each, in the reader's order.
    sizes: width and height in px of the images that are trained on, float [M, 2]. objects: width and height of their boxes, float
    [N, 2]. around: the size of the image that each box is in, float [N, 2].
    """

    dataset: str
    options: Mapping[str, Any]
    sources: Mapping[str, Source]
    classes: Mapping[str, int]
    sizes: NDArray[np.float64]
    objects: NDArray[np.float64]
    around: NDArray[np.float64]

    @property
    def num_images(self) -> Mapping[str, int]:
        """Images per split."""
        return {split: len(source.coco["images"]) for split, source in self.sources.items()}

    @property
    def notes(self) -> tuple[Note, ...]:
        """What reading repaired, assumed or left out."""
        return tuple(note for source in self.sources.values() for note in source.notes)

    @property
    def per_image(self) -> float:
        """Mean number of objects per image."""
        return len(self.objects) / max(1, len(self.sizes))


def look(root: Path) -> LabeledFolder:
    """Read a folder's annotations, and headers of images where needed; no image is decoded.

    Raises:
        DataError: none or several layouts fit, what `prepare` refuses, no training images, or no usable box.
    """
    dataset, options = recognize(root)
    with tempfile.TemporaryDirectory(prefix="edgedistill-") as scratch:
        sources: dict[str, Source] = plugins.load("stages.datasets", dataset).build(Path(scratch), **options)
    if "train" not in sources:
        raise DataError(f"{root}: no train split among {', '.join(sources) or 'no splits'}; name one folder or list train")
    rules.check_splits(sources, ("train",))
    train = sources["train"]
    if not train.coco["images"]:
        raise DataError(f"{root}: no images in split train; put the labeled images in it")
    sizes = _sizes(train)
    boxes, around, counts = _boxes(train, sizes)
    if not len(boxes):
        raise DataError(f"{root}: {len(sizes)} images in split train but no usable box; label some objects first")
    return LabeledFolder(dataset, options, sources, counts, np.array(list(sizes.values()), np.float64), boxes, around)


def corners_of(row: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """An annotation's box x, y, width, height in px; None if it is not one with an area."""
    box = row.get("bbox")
    if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4:
        return None
    try:
        left, top, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        return None
    return (left, top, width, height) if 0 < width < np.inf and 0 < height < np.inf else None


def evenly(rows: Sequence[Any], most: int) -> Sequence[Any]:
    """At most `most` of the rows, evenly spread."""
    return rows if len(rows) <= most else [rows[index * len(rows) // most] for index in range(most)]


def _sizes(source: Source) -> dict[Any, tuple[float, float]]:
    """Width and height by image id."""
    rows = source.coco["images"]
    found = {row["id"]: (float(row["width"]), float(row["height"])) for row in rows if _has_size(row)}
    unknown = [row for row in rows if row["id"] not in found]
    for row in evenly(unknown, MOST_HEADERS):
        measured = size(source.images / str(row["file_name"]))
        if measured is not None:
            found[row["id"]] = float(measured[0]), float(measured[1])
    if not found:
        raise DataError(f"{source.images}: none of the {len(rows)} images of split train can be read")
    usual = statistics.median(width for width, _ in found.values()), statistics.median(height for _, height in found.values())
    return {row["id"]: found.get(row["id"], usual) for row in rows}


def _has_size(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row.get(side), int | float) and row[side] > 0 for side in ("width", "height"))


def _boxes(source: Source, sizes: Mapping[Any, tuple[float, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, int]]:
    """Boxes, the sizes of their images, and the number of boxes by class."""
    names = class_names(source.coco)
    usable = list(_usable(source.coco, sizes, names))
    counted = Counter(category for category, _, _ in usable)
    boxes = np.array([box[2:] for _, box, _ in usable], np.float64).reshape(-1, 2)
    around = np.array([sizes[image] for _, _, image in usable], np.float64).reshape(-1, 2)
    return boxes, around, {name: counted[number] for number, name in names.items()}


def _usable(
    coco: Mapping[str, Any], sizes: Mapping[Any, object], names: Mapping[Any, str]
) -> Iterator[tuple[Any, tuple[float, float, float, float], Any]]:
    for row in coco["annotations"]:
        box = None if row.get("iscrowd") else corners_of(row)
        if box is not None and row.get("image_id") in sizes and row.get("category_id") in names:
            yield row["category_id"], box, row["image_id"]
