"""The masks of a prepared split's objects as flat arrays: polygons, and COCO's run-length codes.

Shapes: N objects, M polygons, P numbers, C bytes.
"""

import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from deploy.errors import ArtifactError, first_line
from deploy.prediction.masks import compressed
from stages.datasets.tables.arrays import ends, opened, streamed, written

Size = tuple[int, int]
_IN_MEMORY = 2**24
"""Bytes of each temporary file that are not written to the disk."""
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


class Unsorted:
    """Masks in any order, in temporary files until they are written in the order of their objects' images."""

    def __init__(self) -> None:
        self._points, self._codes = (tempfile.SpooledTemporaryFile(_IN_MEMORY) for _ in range(2))  # noqa: SIM115 - see __exit__
        self._corners, self._polygons, self._code_lengths = array("q"), array("q"), array("q")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._points.close()
        self._codes.close()

    def add(self, found: Any, size: Size) -> None:
        """Add the mask of the next object, as in a cleaned COCO file, of an image of this size (height, width)."""
        polygons = found if isinstance(found, list) else []
        self._polygons.append(len(polygons))
        for points in polygons:
            self._corners.append(len(points))
            self._points.write(array("d", points).tobytes())
        code = compressed(found, size).encode("ascii") if isinstance(found, Mapping) else b""
        self._code_lengths.append(len(code))
        self._codes.write(code)

    def write(self, folder: Path, order: NDArray[np.int64]) -> None:
        """Write the masks of all objects.

        Args:
            order: [N] which of the added objects is each one.
        """
        polygons, codes = (np.asarray(values, np.int64) for values in (self._polygons, self._code_lengths))
        corners, first = np.asarray(self._corners, np.int64), ends(polygons)
        # the polygons in the new order: those of an object follow one another
        moved = np.repeat(first[:-1][order] - ends(polygons[order])[:-1], polygons[order]) + np.arange(len(corners))
        written(folder, "polygon_ends", ends(corners[moved]))
        written(folder, "first_polygon", ends(polygons[order]))
        written(folder, "code_ends", ends(codes[order]))
        streamed(folder, "codes", _sorted(self._codes, codes, order), int(codes.sum()), np.uint8)
        streamed(folder, "points", _sorted(self._points, 8 * corners, moved), int(corners.sum()), np.float64)


def _sorted(file: IO[bytes], lengths: NDArray[np.int64], order: NDArray[np.int64]) -> Iterator[bytes]:
    """The pieces of a file in a different order."""
    starts = ends(lengths)
    for place in order.tolist():
        if lengths[place]:
            file.seek(int(starts[place]))
            yield file.read(int(lengths[place]))
