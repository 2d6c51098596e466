"""The masks of a prepared split's objects as flat arrays: polygons, and COCO's run-length codes.

Shapes: N objects, M polygons, P numbers, C bytes.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.errors import ArtifactError, first_line
from deploy.prediction.masks import compressed
from stages.datasets.tables.arrays import opened, streamed, written

Size = tuple[int, int]
_COLUMNS = ("points", "polygon_ends", "first_polygon", "codes", "code_ends")


@dataclass(frozen=True)
class Outlines:
    """The masks of all objects; an object has polygons, a code, or neither.

    points [P]: x and y of the polygons' corners in px; polygon_ends [M + 1]: where each polygon begins, and P.
    first_polygon [N + 1]: each object's first polygon, and M. codes [C]: compressed codes; code_ends [N + 1]: where each begins, and C.
    """

    points: NDArray[np.float64]
    polygon_ends: NDArray[np.int64]
    first_polygon: NDArray[np.int64]
    codes: NDArray[np.uint8]
    code_ends: NDArray[np.int64]

    def segmentation(self, row: int, size: Sequence[int]) -> Any:
        """An object's mask as in a COCO file; None if it has none. `size` is height and width of its image."""
        code = self.codes[self.code_ends[row] : self.code_ends[row + 1]]
        if len(code):
            return {"size": [int(side) for side in size], "counts": code.tobytes().decode("ascii")}
        ends = self.polygon_ends[self.first_polygon[row] : self.first_polygon[row + 1] + 1].tolist()
        return [self.points[start:end].tolist() for start, end in pairwise(ends)] or None


def read(folder: Path) -> Outlines:
    """Map the masks of a table.

    Raises:
        ArtifactError: a file is missing or damaged.
    """
    try:
        return Outlines(*(opened(folder, column) for column in _COLUMNS))
    except (OSError, ValueError, EOFError) as error:
        reason = first_line(error)
        raise ArtifactError(f"{folder}: its masks cannot be read ({reason}); delete {folder.parent.parent} and run again") from error


def write(folder: Path, found: Sequence[Sequence[Any]], sizes: Sequence[Size]) -> None:
    """Write the masks of each image's objects, as in a cleaned COCO file, for images of these sizes (height, width)."""
    every = list(chain.from_iterable(found))
    polygons = [one if isinstance(one, list) else [] for one in every]
    ends = np.cumsum([0, *(len(points) for one in polygons for points in one)], dtype=np.int64)
    codes = list(_codes(found, sizes))
    written(folder, "polygon_ends", ends)
    written(folder, "first_polygon", np.cumsum([0, *map(len, polygons)], dtype=np.int64))
    written(folder, "code_ends", np.cumsum([0, *map(len, codes)], dtype=np.int64))
    written(folder, "codes", np.frombuffer(b"".join(codes), np.uint8))
    streamed(folder, "points", (array("d", points).tobytes() for one in polygons for points in one), int(ends[-1]), np.float64)


def _codes(found: Sequence[Sequence[Any]], sizes: Sequence[Size]) -> Iterator[bytes]:
    for own, size in zip(found, sizes, strict=True):
        for one in own:
            yield compressed(one, size).encode("ascii") if isinstance(one, Mapping) else b""
