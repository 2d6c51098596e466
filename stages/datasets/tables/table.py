"""A prepared split as NumPy files: every process that opens them shares their memory, and reads only the rows that it needs.

Shapes: I images, N objects. Crowds are left out: nothing is learned from them.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.errors import ArtifactError, first_line
from stages.datasets.tables import outlines
from stages.datasets.tables.arrays import ends, opened, written
from stages.datasets.tables.outlines import Outlines


@dataclass(frozen=True)
class SplitTable:
    """The images of a split in the order of its COCO file, and the objects of each in the order of its annotations.

    names: all file names, one after the other, in UTF-8 or as the system has them; name_ends [I + 1]: where each begins, and the end.
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
        return self.names[self.name_ends[index] : self.name_ends[index + 1]].tobytes().decode("utf-8", "surrogateescape")

    def files(self, folder: Path) -> list[Path]:
        """All images in the split's folder of images."""
        return [folder / self.name(index) for index in range(len(self))]

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
    """Write a cleaned COCO dictionary as a table; its annotations are gone through once.

    Args:
        labels: the network's label of each category id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images: list[Mapping[str, Any]] = list(coco["images"])
    place = {image["id"]: index for index, image in enumerate(images)}
    of, kinds, boxes = array("q"), array("i"), array("d")
    with outlines.Unsorted() as masks:
        for row in coco["annotations"]:
            if not row.get("iscrowd", 0):
                image = place[row["image_id"]]
                of.append(image)
                kinds.append(labels[row["category_id"]])
                boxes.extend(row["bbox"])
                masks.add(row.get("segmentation"), (images[image]["height"], images[image]["width"]))
        order = np.argsort(np.asarray(of, np.int64), kind="stable")
        names = [image["file_name"].encode("utf-8", "surrogateescape") for image in images]
        columns: Mapping[str, Any] = {
            "names": np.frombuffer(b"".join(names), np.uint8),
            "name_ends": ends(map(len, names)),
            "sizes": np.asarray([(image["height"], image["width"]) for image in images], np.int32).reshape(-1, 2),
            "first": ends(np.bincount(np.asarray(of, np.int64), minlength=len(images))),
            "boxes": np.asarray(boxes, np.float64).reshape(-1, 4)[order],
            "labels": np.asarray(kinds, np.int32)[order],
        }
        for column, values in columns.items():
            written(folder, column, values)
        masks.write(folder, order)
