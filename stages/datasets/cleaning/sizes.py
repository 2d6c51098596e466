"""What the annotations of an image mean if they state a different size from the file's.

Either the image was resized after labeling, so its boxes are px of the stated size; or the stated size is wrong, a tool's default for
example, and the boxes are px of the file. All images of a split with the same kind of difference are judged together: first by boxes
that leave one of the two sizes but not the other, otherwise by where the boxes lie, since objects are spread around the middle.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.prediction import image_files
from stages.datasets.cleaning.image_file import ImageFile
from stages.notes import Kind

Box = tuple[float, float, float, float]
Size = tuple[float, float]
Difference = Literal["exif", "swapped", "similar", "stretched"]

RESIZED = Kind("image resized after labeling", "repaired", "images")
PERHAPS_RESIZED = Kind("image perhaps resized after labeling", "assumed", "images")
STRETCHED = Kind("image stretched after labeling", "assumed", "images")
TURNED = Kind("image turned by its EXIF orientation", "repaired", "images")
WRONG_SIZE = Kind("annotated size is wrong", "repaired", "images")
PERHAPS_WRONG_SIZE = Kind("annotated size is perhaps wrong", "assumed", "images")
ROTATED = Kind("image rotated after labeling", "left out", "images")

_MARGIN_PX = 1.0
_FAR = 0.1
_MANY_LEAVE, _MANY_LEAVE_FAR = 0.2, 0.05
"""Shares of images with a box that leaves the image, and that leaves it by a tenth: with fewer, boxes may just be drawn generously."""
_SPREAD, _BIAS = 0.25, 0.07
"""Standard deviations, in parts of the side, of the boxes' center in an image and of its mean over a split."""
_PRIOR, _CERTAIN = math.log(10), math.log(100)
"""Images are resized more often than sizes are wrong; odds of 100 to 1 decide."""


@dataclass(frozen=True)
class Labeled:
    """An image whose annotations state a size (width, height) that is not its file's; `codes` are the sizes of its masks' codes."""

    stated: Size
    file: ImageFile
    boxes: Sequence[Box]
    codes: frozenset[Size] = field(default_factory=frozenset)

    @property
    def found(self) -> Size:
        """Width and height of the upright image."""
        return self.file.width, self.file.height

    @property
    def stored(self) -> Size:
        """Width and height in the file, before its EXIF orientation is applied."""
        return self.found[::-1] if self.file.turned else self.found

    @property
    def difference(self) -> Difference:
        """How the stated size differs from the file's."""
        if self.file.turned and self.stated == self.stored:
            return "exif"
        if similar(self.stated, self.found):
            return "similar"
        if self.file.turned and similar(self.stated, self.stored):
            return "exif"
        return "swapped" if self.stated == self.found[::-1] else "stretched"


@dataclass(frozen=True)
class Fit:
    """Takes px of the stated size to px of the upright image: scaled to the file's size, then turned by its EXIF orientation."""

    stated: Size
    stored: Size
    orientation: int = 1

    def point(self, x: float, y: float) -> tuple[float, float]:
        """The same point in the upright image."""
        x, y = x * self.stored[0] / self.stated[0], y * self.stored[1] / self.stated[1]
        return _upright(self.orientation, *self.stored)(x, y)

    def box(self, box: Box) -> Box:
        """The same box in the upright image."""
        x, y, w, h = box
        (left, top), (right, bottom) = self.point(x, y), self.point(x + w, y + h)
        return min(left, right), min(top, bottom), abs(right - left), abs(bottom - top)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the stated size in the upright image."""
        if self.stated != self.stored:
            size = int(self.stored[0]), int(self.stored[1])
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), np.bool_)
        return image_files.upright(mask, self.orientation)

    @property
    def area(self) -> float:
        """What a px of the stated size covers, in px of the image."""
        return self.stored[0] * self.stored[1] / (self.stated[0] * self.stated[1])


class SizeReading(NamedTuple):
    """What a difference means: its note, how annotations are fitted (None: used as they are), and what is done in words."""

    kind: Kind
    fit: Fit | None
    done: str


def stated_size(width: Any, height: Any) -> Size | None:
    """The size that annotations state, also as text; None if it is missing, 0 or not a number."""
    try:
        size = float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        return None
    return size if all(math.isfinite(side) and side >= 1 for side in size) else None


def similar(one: Size, other: Size) -> bool:
    """Whether one size is the other times a factor, if a side may be rounded by 1 px."""
    return _scaled(one, other) or _scaled(other, one)


def read(images: Sequence[Labeled]) -> list[SizeReading]:
    """What the difference means for each image, those with the same kind of difference judged together."""
    odds = {kind: _odds([one for one in images if one.difference == kind]) for kind in {one.difference for one in images}}
    return [_reading(image, *odds[image.difference]) for image in images]


def _reading(image: Labeled, odds: float, certain: bool) -> SizeReading:
    kind, prior = image.difference, _PRIOR
    if kind == "swapped":
        if odds > 0 and certain:
            return SizeReading(ROTATED, None, "nobody can tell in which direction, so it is left out")
        return SizeReading(WRONG_SIZE if certain else PERHAPS_WRONG_SIZE, None, "width and height are exchanged, boxes used as they are")
    if odds + prior <= 0:
        return SizeReading(WRONG_SIZE if certain else PERHAPS_WRONG_SIZE, None, "boxes used as they are")
    turned = kind == "exif"
    fit = Fit(image.stated, image.stored, image.file.orientation if turned else 1)
    across, down = (there / here for here, there in zip(image.stated, image.stored, strict=True))
    if turned and image.stated == image.stored:
        return SizeReading(TURNED, fit, "boxes and masks turned with it")
    if kind == "stretched":
        return SizeReading(STRETCHED, fit, f"boxes and masks scaled by {across:.4g} across and {down:.4g} down")
    return SizeReading(RESIZED if certain else PERHAPS_RESIZED, fit, f"boxes and masks scaled by {across:.4g}{' and turned' * turned}")


def _odds(images: Sequence[Labeled]) -> tuple[float, bool]:
    """The logarithm of the odds that boxes are px of the stated size rather than the file's, and whether these are clear."""
    telling = [image for image in images if image.boxes]
    coded = {"stated" if image.stated in image.codes else "found" for image in images if image.codes & {image.stated, image.found}}
    leaves_stated = _many_leave((image.stated, image.boxes) for image in telling)
    leaves_found = _many_leave((image.found, image.boxes) for image in telling)
    centered = _centered(telling)
    if len(coded) == 1:
        return (math.inf, not leaves_stated) if coded == {"stated"} else (-math.inf, not leaves_found)
    if leaves_stated != leaves_found:
        side = math.inf if leaves_found else -math.inf
        return side, math.copysign(centered, side) == centered or abs(centered) < _CERTAIN
    return centered, abs(centered) > _CERTAIN and not leaves_found


def _many_leave(images: Iterable[tuple[Size, Sequence[Box]]]) -> bool:
    """Whether too many images of these sizes have a box that reaches beyond the right or the lower edge."""
    out, far = [], []
    for (width, height), boxes in images:
        right, bottom = max(x + w for x, _, w, _ in boxes), max(y + h for _, y, _, h in boxes)
        out.append(max(right - width, bottom - height) > _MARGIN_PX)
        far.append(out[-1] and max(right / width, bottom / height) > 1 + _FAR)
    return bool(out) and (sum(out) >= _MANY_LEAVE * len(out) or sum(far) >= _MANY_LEAVE_FAR * len(far))


def _centered(images: Sequence[Labeled]) -> float:
    """The odds by the mean of the boxes' centers: in the right size, it is near the middle."""
    if not images:
        return 0.0
    middles = np.array([np.mean([(x + w / 2, y + h / 2) for x, y, w, h in image.boxes], axis=0) for image in images])
    off = [float(((np.mean(middles / [getattr(i, name) for i in images], axis=0) - 0.5) ** 2).sum()) for name in ("stated", "found")]
    return (off[1] - off[0]) / (2 * (_BIAS**2 + _SPREAD**2 / len(images)))


def _scaled(small: Size, large: Size) -> bool:
    """Whether a factor takes `small` to within 1 px of `large` on both sides."""
    low = max((there - 1) / here for here, there in zip(small, large, strict=True))
    return low <= min((there + 1) / here for here, there in zip(small, large, strict=True))


def _upright(orientation: int, stored_width: float, stored_height: float) -> Callable[[float, float], tuple[float, float]]:
    """Maps a point of the image as stored to the same point of the upright image."""
    turns: dict[int, Callable[[float, float], tuple[float, float]]] = {
        5: lambda x, y: (y, x),
        6: lambda x, y: (stored_height - y, x),
        7: lambda x, y: (stored_height - y, stored_width - x),
        8: lambda x, y: (y, stored_width - x),
    }
    return turns.get(orientation, lambda x, y: (x, y))
