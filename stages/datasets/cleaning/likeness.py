"""Which images show the same picture, by their looks (see ImageFile.look): recompressed, resized, or the next frame of a video."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 4
"""Two looks are alike if no gray value differs by more; recompression and resizing stay below."""
FLAT = 4.0
"""Looks whose gray values deviate by no more than this, such as blank pages, are alike by nature and not compared."""
_CELL = 2 * TOLERANCE
_AXES = 6
_PROBES = np.array([17, 30, 225, 238, 85, 170, 21, 26, 81, 90, 94, 161, 165, 174, 229, 234])
"""Some of the 256 pixels, far from each other. Of alike images they are as close as all others, so these are found in cells of the
same values, or next to them, in as many dimensions as there are _AXES."""
_NONE: NDArray[np.intp] = np.zeros(0, np.intp)
FRAMES = 0.9
"""Minimum correlation between the looks of consecutive frames. Different photographs of one microscope stay below 0.6."""


class Looks:
    """An index of looks, answering exactly which of them are alike.

    Args:
        looks: 256 bytes each; images are referred to by their positions here.
    """

    def __init__(self, looks: Sequence[bytes]) -> None:
        pixels = np.array([np.frombuffer(look, dtype=np.uint8) for look in looks], dtype=np.int16).reshape(-1, 256)
        self._order = np.argsort(pixels.mean(axis=1), kind="stable")
        self._pixels = pixels[self._order]
        self._probes = np.ascontiguousarray(self._pixels[:, _PROBES])
        self._open = self._pixels.std(axis=1) > FLAT
        cells, of = np.unique(self._probes[:, :_AXES] // _CELL, axis=0, return_inverse=True)
        by_cell = np.argsort(of.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(of.reshape(-1), minlength=len(cells)))
        self._cells = dict(zip(map(tuple, cells.tolist()), np.split(by_cell, ends[:-1]), strict=bool(len(cells))))

    def alike(self, look: bytes) -> list[int]:
        """The positions of all images that look like this one, ascending."""
        pixels = np.frombuffer(look, dtype=np.uint8).astype(np.int16)
        return sorted(int(self._order[row]) for row in self._near(pixels, self._open)) if pixels.std() > FLAT else []

    def chains(self) -> list[list[int]]:
        """Groups of at least two images that are alike, directly or through others in between."""
        remaining = self._open.copy()
        found: list[list[int]] = []
        for seed in np.flatnonzero(remaining):
            if not remaining[seed]:
                continue
            remaining[seed] = False
            chain = [int(seed)]
            for row in chain:  # grows while it is walked
                near = self._near(self._pixels[row], remaining)
                remaining[near] = False
                chain += near.tolist()
            if len(chain) > 1:
                found.append([int(self._order[row]) for row in chain])
        return found

    def _near(self, pixels: NDArray[np.int16], among: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The rows `among` the sorted looks that are alike, ascending; some pixels are compared before all."""
        probes = pixels[_PROBES]
        around = [dict.fromkeys(((one - TOLERANCE) // _CELL, (one + TOLERANCE) // _CELL)) for one in probes[:_AXES].tolist()]
        rows = np.concatenate((_NONE, *(self._cells[cell] for cell in product(*around) if cell in self._cells)))
        rows = rows[among[rows]]
        rows = rows[np.abs(self._probes[rows] - probes).max(axis=1, initial=0) <= TOLERANCE]
        return np.sort(rows[np.abs(self._pixels[rows] - pixels).max(axis=1, initial=0) <= TOLERANCE])


def next_frame(look: bytes, other: bytes) -> bool:
    """Whether two images whose names follow each other show the same scene: most of the picture has stayed where it was."""
    a, b = (np.frombuffer(pixels, dtype=np.uint8).astype(np.float64) for pixels in (look, other))
    a, b = a - a.mean(), b - b.mean()
    spread = float(a.std() * b.std())
    return min(a.std(), b.std()) > FLAT and float((a * b).mean()) >= FRAMES * spread
