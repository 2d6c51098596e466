"""Which images show the same picture, by their looks (see ImageFile.look): recompressed, resized, or the next frame of a video."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 4
"""Two looks are alike if no gray value differs by more; recompression and resizing stay below."""
FLAT = 4.0
"""Looks whose gray values deviate by no more than this, such as blank pages, are alike by nature and not compared."""
_AXES, _CELL = 3, 2.0 * TOLERANCE
"""Images are found by their cell in a grid of this many of the coarse values that differ most between images, and this wide."""
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
        self._coarse = _coarse(self._pixels)
        self._open = self._pixels.std(axis=1) > FLAT
        # Coarse values are means, so those of alike images are as close as their pixels: in the same cell or in one next to it.
        self._axes = np.sort(np.argsort(-self._coarse.std(axis=0), kind="stable")[:_AXES]) if len(pixels) else np.arange(_AXES)
        cells, of = np.unique(self._coarse[:, self._axes] // _CELL, axis=0, return_inverse=True)
        rows = np.split(np.argsort(of.reshape(-1), kind="stable"), np.cumsum(np.bincount(of.reshape(-1)))[:-1]) if len(pixels) else []
        self._cells = dict(zip(map(tuple, cells.tolist()), rows, strict=True))

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
        """The rows `among` the sorted looks that are alike, ascending; coarse values are compared first."""
        coarse = _coarse(pixels[None])[0]
        around = [dict.fromkeys(((one - TOLERANCE) // _CELL, (one + TOLERANCE) // _CELL)) for one in coarse[self._axes].tolist()]
        found = [self._cells[cell] for cell in product(*around) if cell in self._cells]
        rows = np.concatenate((_NONE, *found))
        rows = rows[among[rows]]
        rows = rows[np.abs(self._coarse[rows] - coarse).max(axis=1, initial=0) <= TOLERANCE]
        return np.sort(rows[np.abs(self._pixels[rows] - pixels).max(axis=1, initial=0) <= TOLERANCE])


def next_frame(look: bytes, other: bytes) -> bool:
    """Whether two images whose names follow each other show the same scene: most of the picture has stayed where it was."""
    a, b = (np.frombuffer(pixels, dtype=np.uint8).astype(np.float64) for pixels in (look, other))
    a, b = a - a.mean(), b - b.mean()
    spread = float(a.std() * b.std())
    return min(a.std(), b.std()) > FLAT and float((a * b).mean()) >= FRAMES * spread


def _coarse(pixels: NDArray[np.int16]) -> NDArray[np.float32]:
    """Means [N, 16] of 4 x 4 gray values of looks [N, 256]."""
    means: NDArray[np.float32] = pixels.reshape(-1, 4, 4, 4, 4).mean(axis=(2, 4), dtype=np.float32).reshape(-1, 16)
    return means
