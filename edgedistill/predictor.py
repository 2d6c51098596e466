"""An open bundle that finds objects in images."""

import os
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.bundles.bundle import Bundle
from deploy.contract import Preprocessing
from deploy.errors import ConfigError, DataError
from deploy.prediction import image_files
from deploy.prediction.predictor import SessionPredictor
from deploy.prediction.preprocess import Size
from edgedistill.prediction import Prediction

Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path, the bytes of an image file, a Pillow image, or [H, W, 3] uint8 RGB."""


class Predictor:
    """Finds objects in images with a bundle, which is checked and opened once; a context manager.

    May be used from several threads: image files are decoded in parallel, but the network processes one image at a time. To
    process several, open one predictor per thread or use `edgedistill serve`.
    """

    def __init__(self, bundle: Bundle | str | os.PathLike[str], *, min_score: float = 0.3, threads: int | None = None) -> None:
        """Open a bundle.

        Args:
            bundle: a folder with manifest.json, or `Bundle.load(folder)`.
            min_score: objects with a lower score are left out, 0 to 1.
            threads: CPU threads of the engine; None leaves the number to the runtime.

        Raises:
            ConfigError: min_score or threads is out of range.
            ArtifactError: the bundle is damaged, holds no engine, or one built on a different machine.
            RuntimeUnavailable: the engine cannot run on this machine.
        """
        if not 0 <= min_score <= 1:
            raise ConfigError(f"min_score {min_score}: allowed: 0 to 1")
        if threads is not None and threads < 1:
            raise ConfigError(f"threads {threads}: allowed: 1 or more, or None")
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        self.min_score = min_score
        self._lock = Lock()
        self._open: SessionPredictor | None = SessionPredictor(self.bundle.open(threads=threads), self.bundle.manifest.contract)

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class that the detector knows; a prediction's labels are indices into it."""
        return self.bundle.manifest.contract.classes

    def __call__(self, image: Picture) -> Prediction:
        """Find the objects in one image.

        Args:
            image: a path, the bytes of an image file, a Pillow image, or [H, W, 3] uint8 RGB. The camera's rotation (EXIF) is
                undone first, so boxes are in px of the upright image. If the bundle has `reduced_decoding`, pass files or bytes:
                others are decoded already.

        Raises:
            DataError: the image cannot be read, or the array has a different shape or type.
            ArtifactError: the engine's answer is unusable.
            RuntimeError: the predictor is closed.
        """
        pixels = _pixels(image, self.bundle.manifest.contract.preprocessing)
        seen, size = _network_sees(image, pixels, self.bundle.manifest.contract.preprocessing)
        with self._lock:
            if self._open is None:
                raise RuntimeError("the predictor is closed; open a new one")
            found, timings = self._open.timed(seen, size)
        return Prediction(pixels, self.classes, found.above(self.min_score), timings)

    def close(self) -> None:
        """Free the engine, after it has finished its current image; may be called twice."""
        with self._lock:
            if self._open is not None:
                self._open.session.close()
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _pixels(image: Picture, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The image as [H, W, 3] uint8 RGB, in memory that the caller cannot change later."""
    if isinstance(image, Image.Image):
        pixels = image_files.from_pillow(image, preprocessing)
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(f"got an array {list(image.shape)} of {image.dtype}, allowed: [H, W, 3] of uint8, RGB; convert it first")
        pixels = np.array(image, order="C")
    elif isinstance(image, bytes):
        pixels = image_files.load_image(image, preprocessing)
    elif isinstance(image, str | os.PathLike):
        pixels = image_files.load_image(Path(image), preprocessing)
    else:
        raise TypeError(f"{type(image).__name__}: an image must be a path, bytes, a Pillow image or [H, W, 3] uint8 RGB")
    if 0 in pixels.shape:
        raise DataError(f"an image of {pixels.shape[1]} x {pixels.shape[0]} px is empty; pass one with at least one pixel")
    return pixels


def _network_sees(image: Picture, pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> tuple[NDArray[np.uint8], Size | None]:
    """The pixels that the network sees, and the image's width and height if these are not theirs."""
    if not preprocessing.reduced_decoding or isinstance(image, Image.Image | np.ndarray):
        return pixels, None
    seen = image_files.load(image if isinstance(image, bytes) else Path(image), preprocessing)
    return seen.pixels, seen.size
