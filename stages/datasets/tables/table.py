"""A prepared split as NumPy files: every process that opens them shares their memory, and reads only the rows that it needs.

Shapes: I images, N objects. Crowds are left out: nothing is learned from them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.errors import ArtifactError, first_line
from stages.datasets.tables import outlines
from stages.datasets.tables.arrays import opened, written
from stages.datasets.tables.outlines import Outlines


@dataclass(frozen=True)
class SplitTable:
    """The images of a split in the order of its COCO file, and the objects of each in the order of its annotations.

    names: all file names, one after the other, in UTF-8; name_ends [I + 1]: where each begins, and the end.
    sizes [I, 2]: height and width in px. first [I + 1]: each image's first object, and N.
    boxes [N, 4]: x, y, width, height in px; labels [N] from 0. folder: where the files are.
    """

    names: NDArray[np.uint8]
    name_ends: NDArray[np.int64]
    sizes: NDArray[np.int32]
    first: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int32]
    folder: Path

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int) -> str:
        """The file name of an image, relative to the split's folder of images."""
        return self.names[self.name_ends[index] : self.name_ends[index + 1]].tobytes().decode("utf-8")

    def objects(self, index: int) -> slice:
        """The rows of an image's objects."""
        return slice(int(self.first[index]), int(self.first[index + 1]))

    def corners(self, index: int) -> NDArray[np.float32]:
        """The boxes [n, 4] (x1, y1, x2, y2) of an image's objects, in px of the image."""
        boxes = self.boxes[self.objects(index)]
        return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1).astype(np.float32)

    def labels_of(self, index: int) -> NDArray[np.int64]:
        """The labels [n] of an image's objects."""
        return self.labels[self.objects(index)].astype(np.int64)

    def outlines(self) -> Outlines:
        """The objects' masks, which are mapped only if they are asked for."""
        return outlines.read(self.folder)


_COLUMNS = ("names", "name_ends", "sizes", "first", "boxes", "labels")


def read(folder: Path) -> SplitTable:
    """Map a table.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    try:
        return SplitTable(**{column: opened(folder, column) for column in _COLUMNS}, folder=folder)
    except (OSError, ValueError, EOFError) as error:
        reason = first_line(error)
        raise ArtifactError(f"{folder}: not a table of a split ({reason}); delete {folder.parent.parent} and run again") from error


def write(folder: Path, coco: Mapping[str, Any], labels: Mapping[int, int]) -> None:
    """Write a cleaned COCO dictionary as a table.

    Args:
        labels: the network's label of each category id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, images = _by_image(coco)
    names = [image["file_name"].encode("utf-8", "surrogateescape") for image in images]
    columns: Mapping[str, tuple[Any, Any]] = {
        "names": (np.frombuffer(b"".join(names), np.uint8), np.uint8),
        "name_ends": (_ends(map(len, names)), np.int64),
        "sizes": ([(image["height"], image["width"]) for image in images], np.int32),
        "first": (_ends(map(len, rows)), np.int64),
        "boxes": ([row["bbox"] for own in rows for row in own], np.float64),
        "labels": ([labels[row["category_id"]] for own in rows for row in own], np.int32),
    }
    shapes = {"sizes": (-1, 2), "boxes": (-1, 4)}
    for column, (values, kind) in columns.items():
        written(folder, column, np.asarray(values, kind).reshape(shapes.get(column, (-1,))))
    outlines.write(folder, [[row.get("segmentation") for row in own] for own in rows], [(i["height"], i["width"]) for i in images])


def _by_image(coco: Mapping[str, Any]) -> tuple[list[list[Mapping[str, Any]]], list[Mapping[str, Any]]]:
    """The objects of each image, and the images."""
    images = list(coco["images"])
    rows: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in images}
    for row in coco["annotations"]:
        if not row.get("iscrowd", 0):
            rows[row["image_id"]].append(row)
    return list(rows.values()), images


def _ends(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)
