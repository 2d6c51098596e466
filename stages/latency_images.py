"""The images that latency is measured on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy import preprocess
from deploy.contract import Preprocessing

Image = NDArray[np.uint8]
NUM_IMAGES = 64


def of(files: Sequence[Path], preprocessing: Preprocessing) -> list[Image]:
    """Some of these, decoded, spread evenly; grey noise of the network's size where there are none.

    What noise costs is the network's time, not that of shrinking a photograph.
    """
    if files:
        chosen = np.unique(np.linspace(0, len(files) - 1, min(NUM_IMAGES, len(files))).round().astype(int))
        return [preprocess.load_image(files[index]) for index in chosen.tolist()]
    drawn = np.random.default_rng(0).integers(0, 256, (4, preprocessing.height, preprocessing.width, 1), np.uint8)
    return [np.repeat(one, 3, axis=2) for one in drawn]
