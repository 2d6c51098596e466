"""The images that latency is measured on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.accuracy.spread import spread
from deploy.contract import Preprocessing
from deploy.prediction import image_files
from stages.measurement.corrupted import KEPT_BYTES

Image = NDArray[np.uint8]
NUM_IMAGES = 64


def of(files: Sequence[Path], preprocessing: Preprocessing) -> list[Image]:
    """Some of these files, evenly spread and decoded, as many as fit in KEPT_BYTES; gray noise of the network's size if there are none.

    Noise measures the network's time, without the time to shrink a photograph.
    """
    if files:
        return _decoded(spread(files, NUM_IMAGES), preprocessing)
    drawn = np.random.default_rng(0).integers(0, 256, (4, preprocessing.height, preprocessing.width, 1), np.uint8)
    return [np.repeat(one, 3, axis=2) for one in drawn]


def _decoded(files: Sequence[Path], preprocessing: Preprocessing) -> list[Image]:
    """The first ones that fit, at least one."""
    found: list[Image] = []
    left = KEPT_BYTES
    for file in files:
        pixels = image_files.load(file, preprocessing).pixels
        left -= pixels.nbytes
        if found and left < 0:
            break
        found.append(pixels)
    return found
