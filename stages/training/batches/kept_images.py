"""Decoded images that views are made of: the first ones are kept, so that later epochs do not read them again."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import data
from torchvision import tv_tensors

from deploy.contract import Preprocessing
from deploy.prediction import image_files, preprocess
from deploy.prediction.masks import decode
from stages.training.batches.streams import Views

KEPT_BYTES = 2**28

Size = tuple[int, int]
"""Height and width."""


class KeptViews(Views):
    """Views of images that are shrunk to what these can show, by at most `room`.

    The first KEPT_BYTES of images are read once and kept, except in loader processes, of which each would keep its own.
    """

    def __init__(self, preprocessing: Preprocessing, room: float) -> None:
        self._preprocessing = preprocessing
        self._room = room
        self._kept: dict[int, tuple[NDArray[np.uint8], Size]] = {}
        self._bytes_left = KEPT_BYTES

    def _pixels(self, index: int, file: Path) -> tuple[NDArray[np.uint8], Size]:
        """The image, shrunk, and its height and width before."""
        if index not in self._kept:
            seen = image_files.load(file, self._preprocessing)
            found = preprocess.shrink(seen.pixels, self._preprocessing, self._room, seen.size), seen.size[::-1]
            if found[0].nbytes > self._bytes_left or data.get_worker_info() is not None:
                return found
            self._bytes_left -= found[0].nbytes
            self._kept[index] = found
        return self._kept[index]


def shrunk_masks(codes: Iterable[Any], count: int, before: Size, size: Size) -> tv_tensors.Mask:
    """The masks [count, H, W] of an image's objects, for the image shrunk to `size`."""
    masks = np.zeros((count, *size), np.bool_)
    for mask, code in zip(masks, codes, strict=True):
        mask[:] = preprocess.resize_masks(decode(code, before)[None], size)[0]
    return tv_tensors.Mask(torch.from_numpy(masks))
