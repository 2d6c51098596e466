"""Corrupted copies of images, the same ones at every run: seeded by the image, the corruption and the severity.

imagecorruptions-imaug makes them, the maintained form of the benchmark's own package. The random ones among its corruptions draw from
NumPy's global generator, which is seeded for the call and put back after it, or take a seed.
"""

import hashlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.accuracy.conditions import MIN_SIDE_PX
from deploy.accuracy.judge import LabeledSplit
from deploy.errors import DataError, RuntimeUnavailable
from deploy.machine import packages

LIBRARY = "imagecorruptions-imaug"
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


def load() -> ModuleType:
    """The library, whose import takes seconds: processes that are forked after it have it.

    Raises:
        RuntimeUnavailable: it is not installed.
    """
    if (missing := why_not()) is not None:
        raise RuntimeUnavailable(missing)
    import imagecorruptions

    module: ModuleType = imagecorruptions
    return module


def corrupt(image: NDArray[np.uint8], corruption: str, severity: int, seed: int) -> NDArray[np.uint8]:
    """A corrupted copy of an image [H, W, 3] RGB of at least 32 px per side.

    Args:
        severity: 1 to 5.
        seed: 0 to 2**32 - 1.

    Raises:
        RuntimeUnavailable: the library is not installed.
    """
    library = load()
    before = np.random.get_state()  # noqa: NPY002 - the library draws from this generator
    np.random.seed(seed)  # noqa: NPY002
    try:
        options: dict[str, Any] = {"seed": seed} if corruption in _TAKE_A_SEED else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = library.corrupt(image, severity=severity, corruption_name=corruption, **options)
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


def downscale(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """The image [H, W, 3] shrunk by a factor below 1 and enlarged again to its size."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
