"""The network's input size and the levels of its pyramid, from the sizes of images and objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.init.folder import LabeledFolder

SMALL_PX = 8.0
"""Objects below this size (the square root of their area, at the network's input) are rarely found."""

MOST_SMALL = 0.05
"""Share of objects that may be below SMALL_PX."""

GOOD_PX, PLENTY_PX = 20.0, 40.0
"""Median object size that gives good boxes, and above which more px hardly help."""

STEP = 32
LONGEST = 1344
SHORTEST = 64
RANGE_SCALE = 0.5
"""With levels trained from scratch, a level of stride s takes objects up to 8 s wide or high; at 1.0 twice that."""

REACH = 16.0
FINE_PX = 28.0
"""With a median object below this, the finest level has stride 4."""

CARRIES = 0.05
"""Share of objects from which on a level takes part in distillation."""


@dataclass(frozen=True)
class InputSize:
    """Width and height in px; `small` is the share of objects below SMALL_PX in it, `median` the median object's size."""

    width: int
    height: int
    small: float
    median: float

    @property
    def area(self) -> int:
        """Number of px."""
        return self.width * self.height


@dataclass(frozen=True)
class Levels:
    """Strides, the scale of their ranges, and the share of objects that each level takes."""

    strides: tuple[int, ...]
    range_scale: float
    shares: tuple[float, ...]

    @property
    def carrying(self) -> tuple[int, ...]:
        """Strides of the levels that take many objects."""
        found = tuple(stride for stride, share in zip(self.strides, self.shares, strict=True) if share >= CARRIES)
        return found or (self.strides[int(np.argmax(self.shares))],)


def candidates(folder: LabeledFolder) -> list[InputSize]:
    """Sizes in multiples of 32 with the images' median aspect, ascending, up to a little more than the own px of most."""
    aspect = float(np.median(folder.sizes[:, 0] / folder.sizes[:, 1]))
    own = float(np.percentile(folder.around.max(axis=1), 75))
    longest = min(LONGEST, max(SHORTEST, STEP * -(-own * 1.1 // STEP)))
    sides = (_sides(long, aspect) for long in range(SHORTEST, int(longest) + 1, STEP))
    return [_judged(folder, width, height) for width, height in dict.fromkeys(sides)]


def objects_at(folder: LabeledFolder, width: int, height: int) -> NDArray[np.float64]:
    """Width and height [N, 2] of the objects in a letterboxed input, px."""
    scale = np.minimum(width / folder.around[:, 0], height / folder.around[:, 1])
    found: NDArray[np.float64] = folder.objects * scale[:, None]
    return found


def wanted(sizes: Sequence[InputSize]) -> int:
    """The index of the smallest size in which few objects are too small and most are large enough; the largest if none is."""
    return next((i for i, one in enumerate(sizes) if one.small <= MOST_SMALL and one.median >= GOOD_PX), len(sizes) - 1)


def levels(folder: LabeledFolder, size: InputSize) -> Levels:
    """Three levels from stride 4 or 8 on."""
    finest = 4 if size.median < FINE_PX else 8
    return shared(folder, size, tuple(finest * 2**index for index in range(3)), RANGE_SCALE)


def shared(folder: LabeledFolder, size: InputSize, strides: tuple[int, ...], range_scale: float) -> Levels:
    """The same levels with the share of objects that each takes: FCOS assigns by the longer side."""
    longest = objects_at(folder, size.width, size.height).max(axis=1)
    limits = [stride * REACH * range_scale for stride in strides[:-1]]
    counts = np.bincount(np.searchsorted(limits, longest), minlength=len(strides))
    return Levels(strides, range_scale, tuple(float(count) / len(longest) for count in counts))


def _sides(long: int, aspect: float) -> tuple[int, int]:
    short = max(SHORTEST if long >= 2 * SHORTEST else STEP, STEP * round(long / max(aspect, 1 / aspect) / STEP))
    return (long, short) if aspect >= 1 else (short, long)


def _judged(folder: LabeledFolder, width: int, height: int) -> InputSize:
    objects = np.sqrt(objects_at(folder, width, height).prod(axis=1))
    return InputSize(width, height, float((objects < SMALL_PX).mean()), float(np.median(objects)))
