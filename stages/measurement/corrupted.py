"""Images as networks see them under a condition, made by all cores, each once for all engines."""

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.accuracy import corruptions
from deploy.accuracy.conditions import MOST_PIXELS, Condition
from deploy.accuracy.judge import LabeledSplit
from deploy.contract import Preprocessing
from deploy.machine.parallel import ahead
from deploy.prediction import image_files, preprocess
from deploy.prediction.preprocess import Placement

Pixels = NDArray[np.uint8]
KEPT_BYTES = 2**28
"""So much of decoded images is kept in memory: between conditions, and to measure latency on."""


class Fitted(NamedTuple):
    """An image at the network's size [H, W, 3], 0 to 255 and RGB, and the position of the image in it."""

    pixels: Pixels
    placement: Placement


class Views:
    """Images of a split under conditions, fitted to networks with this preprocessing."""

    def __init__(self, images: LabeledSplit, preprocessing: Preprocessing) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self._most = max(MOST_PIXELS, preprocessing.height * preprocessing.width)
        self._kept: dict[int, tuple[Pixels, preprocess.Size]] = {}

    def under(self, conditions: Sequence[Condition]) -> Generator[Fitted, None, None]:
        """All images under the first condition, in order, then all under the second.

        Raises:
            DataError: an image cannot be read.
        """
        if any(one.corruption is not None for one in conditions):
            corruptions.load()  # before processes are forked
        if len(conditions) > 1:
            self._keep()
        return ahead(self._view, [(one, index) for one in conditions for index in range(len(self.images.images))])

    def _keep(self) -> None:
        """Decode as many images as may be kept; processes that are forked later share them."""
        left = KEPT_BYTES
        for index in range(len(self.images.images)):
            found = self._to_corrupt(index)
            left -= found[0].nbytes
            if left < 0:
                return
            self._kept[index] = found

    def _to_corrupt(self, index: int) -> tuple[Pixels, preprocess.Size]:
        """The pixels of which there are copies, decoded in full, and the image's own width and height."""
        pixels = image_files.load_image(self.images.images[index], self.preprocessing)
        return corruptions.at_most(pixels, self._most), (pixels.shape[1], pixels.shape[0])

    def _view(self, task: tuple[Condition, int]) -> Fitted:
        condition, index = task
        if condition.corruption is None:
            seen = image_files.load(self.images.images[index], self.preprocessing)
            return Fitted(*preprocess.fit(seen.pixels, self.preprocessing, seen.size))
        pixels, size = self._kept.get(index) or self._to_corrupt(index)
        seed = corruptions.seed_of(self.images.truth["images"][index]["id"], condition.corruption, condition.severity)
        made = corruptions.corrupt(pixels, condition.corruption, condition.severity, seed)
        return Fitted(*preprocess.fit(made, self.preprocessing, size))
