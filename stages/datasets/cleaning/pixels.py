"""Finds images whose stored values the preprocessing contract shows wrongly: 12 bits in files of 16, transparency over everything.

Nothing is repaired here: what a value means is a fixed field of data.preprocessing, the same for every image of a network.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.contract import FULL_WHITE, Preprocessing
from deploy.prediction import decoding
from stages.notes import Kind, Notes

DARK = Kind("16-bit values in the lowest part of their range", "assumed", "images")
CLIPPED = Kind("16-bit values above white", "assumed", "images")
HIDDEN = Kind("picture under full transparency", "assumed", "images")
BLANK = Kind("blank image", "assumed", "images")

_RANGES = {255: 8, 1023: 10, 4095: 12, 16383: 14, FULL_WHITE: 16}
"""The largest value of each usual number of bits."""
_OUTLIERS = 1e-4  # share of px, such as a sensor's hot ones, that do not count for the range
_CLIPPED_SHARE = 0.01
_UNUSED = 4  # a range is wrong for a split if not even a quarter of it is used, for an image among brighter ones a sixteenth
_FAINT, _SEEN_SHARE = 16, 0.01  # alpha below this hides what is under it; a picture of which less than this share is seen is hidden


@dataclass(frozen=True)
class Stored:
    """An image's stored values.

    `top` is the largest value of the smallest usual number of bits that holds them, null if the file has 8 bits per channel.
    `clipped` is the share of px above the contract's white. `hidden`: transparency hides a picture. `blank`: one value.
    """

    top: int | None = None
    clipped: float = 0.0
    hidden: bool = False
    blank: bool = False


def examine(image: Image.Image, pixels: NDArray[np.uint8], preprocessing: Preprocessing, *, deep: bool) -> Stored:
    """A loaded image, and the RGB [H, W, 3] that it was decoded to; `deep`: its file has 16-bit color."""
    values = decoding.stored(image, str(image), deep=deep)
    return Stored(
        top=None if values is None else next(top for top in _RANGES if np.mean(values > top) <= _OUTLIERS),
        clipped=0.0 if values is None or preprocessing.white == FULL_WHITE else float(np.mean(values > preprocessing.white)),
        hidden=preprocessing.alpha == "blend" and decoding.is_transparent(image) and _is_hidden(image),
        blank=_is_uniform(pixels if values is None else values),
    )


def add(notes: Notes, split: str, found: Sequence[tuple[str, Stored]], preprocessing: Preprocessing) -> None:
    """Note what the contract shows wrongly in a split's images, given by name."""
    top = max((stored.top for _, stored in found if stored.top is not None and not stored.blank), default=FULL_WHITE)
    for name, stored in found:
        for kind, text in _doubts(stored, top, preprocessing.white):
            notes.add(kind, split, f"{name}: {text}", image=name)


def _doubts(stored: Stored, top: int, white: int) -> Iterator[tuple[Kind, str]]:
    if stored.hidden:
        yield HIDDEN, "almost all of it is transparent, so it is black; set data.preprocessing.alpha to ignore to see its colors"
        return
    if stored.clipped > _CLIPPED_SHARE:
        yield (
            CLIPPED,
            f"{stored.clipped:.0%} of its values are above data.preprocessing.white, {white}; raise it to their largest",
        )
    if stored.blank:
        yield BLANK, "every px has the same value"
    elif stored.top is not None and _leaves_unused(top, white, _UNUSED):
        yield DARK, f"the split has {_RANGES[top]}-bit data in 16-bit files; set data.preprocessing.white to {top}"
    elif stored.top is not None and _leaves_unused(stored.top, white, _UNUSED**2):
        text = f"values up to {stored.top} where other images of the split reach {top}; white is {white} for all: save them with one range"
        yield DARK, text


def _leaves_unused(top: int, white: int, factor: int) -> bool:
    return (top + 1) * factor <= white + 1


def _is_hidden(image: Image.Image) -> bool:
    """Whether almost no px is seen, and the colors below are a picture, not one color."""
    whole = np.asarray(image.convert("RGBA"))
    return bool(np.mean(whole[..., 3] >= _FAINT) < _SEEN_SHARE) and not _is_uniform(whole[..., :3])


def _is_uniform(values: NDArray[np.integer]) -> bool:
    first = values[:1, :1]
    return bool((values[::16, ::16] == first).all() and (values == first).all())
