"""Corrupted copies of images, the same ones at every run: seeded by the image, the corruption and the severity.

imagecorruptions-imaug makes them, the maintained form of the benchmark's own package, or loops of our own that give the same pixels sooner.
The random ones among them draw from NumPy's global generator, which is seeded for the call and put back after it, or take a seed.
"""

import hashlib
import importlib.util
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.accuracy.conditions import CORRUPTIONS, HELD_OUT, MIN_SIDE_PX
from deploy.accuracy.judge import LabeledSplit
from deploy.errors import DataError, RuntimeUnavailable
from deploy.machine import packages

Corruption = Callable[..., NDArray[np.uint8]]
"""Takes an image, `severity` and perhaps `seed`."""
LIBRARY = "imagecorruptions-imaug"
COMPARED = "1.1.5"
"""The release with which our own loops were compared; of any other, the library's own functions are used."""
_TAKE_A_SEED = ("impulse_noise", "glass_blur")
_PACKAGES = (LIBRARY, "pillow", "numpy", "scikit-image", "scipy")
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def why_not() -> str | None:
    """None if the library is installed; otherwise what to do."""
    if packages.version(LIBRARY) is None or importlib.util.find_spec("imagecorruptions") is None:
        return f'{LIBRARY} is not installed: pip install "edgedistill[robustness]"'
    return None


def identity() -> dict[str, str]:
    """The versions of everything that decides the pixels: a JPEG, for example, depends on Pillow's."""
    found = {name: packages.version(name) for name in _PACKAGES}
    return {name: version or "not installed" for name, version in found.items()} | {"opencv": packages.first(*_OPENCV)}


@cache
def load() -> Mapping[str, Corruption]:
    """A function for each corruption; processes that are forked later need not spend seconds on imports, or on compiling loops.

    Raises:
        RuntimeUnavailable: the library is not installed.
    """
    if (missing := why_not()) is not None:
        raise RuntimeUnavailable(missing)
    import cv2
    import imagecorruptions

    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)  # each core has its own image, and OpenCV's threads would be lost in forked processes
    every: dict[str, Corruption] = {name: partial(imagecorruptions.corrupt, corruption_name=name) for name in (*CORRUPTIONS, *HELD_OUT)}
    if packages.version(LIBRARY) != COMPARED:
        return every
    from deploy.accuracy.faster import FASTER

    return every | FASTER


def corrupt(image: NDArray[np.uint8], corruption: str, severity: int, seed: int) -> NDArray[np.uint8]:
    """A corrupted copy of an image [H, W, 3] RGB of at least 32 px per side.

    Args:
        severity: 1 to 5.
        seed: 0 to 2**32 - 1.

    Raises:
        RuntimeUnavailable: the library is not installed.
    """
    make = load()[corruption]
    before = np.random.get_state()  # noqa: NPY002 - the library draws from this generator
    np.random.seed(seed)  # noqa: NPY002
    try:
        options: dict[str, Any] = {"seed": seed} if corruption in _TAKE_A_SEED else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = make(np.require(image, np.uint8, ["C", "W"]), severity=severity, **options)  # compiled loops take no others
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return np.ascontiguousarray(made, dtype=np.uint8)


def seed_of(image: int | str, corruption: str, severity: int) -> int:
    """The seed for an image of this id under a condition."""
    return int.from_bytes(hashlib.sha256(f"{image}/{corruption}/{severity}".encode()).digest()[:4], "big")


def refuse_small(split: LabeledSplit) -> None:
    """Refuse images for which corruptions are not defined.

    Raises:
        DataError: an image has a side below 32 px.
    """
    small: Sequence[Mapping[str, Any]] = [row for row in split.truth["images"] if min(row["width"], row["height"]) < MIN_SIDE_PX]
    if small:
        first = small[0]
        more = f", and {len(small) - 1} more images" if len(small) > 1 else ""
        raise DataError(
            f"{first['file_name']}{more}: {first['width']} x {first['height']} px, and corruptions need {MIN_SIDE_PX} px per side; "
            f"leave out robustness.corruptions, or such images"
        )


def at_most(image: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """The image [H, W, 3] shrunk to `pixels` px; unchanged if it has no more."""
    height, width = image.shape[:2]
    if height * width <= pixels:
        return image
    scale = math.sqrt(pixels / (height * width))
    size = max(MIN_SIDE_PX, round(width * scale)), max(MIN_SIDE_PX, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def downscale(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The image [H, W, 3] shrunk by a factor below 1 and enlarged again to its size."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
