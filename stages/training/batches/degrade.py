"""Corrupted training views of equal geometry: for any network, or for the student only while its teacher sees the clean view."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deploy.accuracy import corruptions
from deploy.accuracy.conditions import MIN_SIDE_PX
from deploy.errors import ConfigError
from stages.config import Augmentation, Corrupt, StudentViewConfig

Pixels = NDArray[np.uint8]


def views(augment: Sequence[Augmentation], student: StudentViewConfig | None) -> tuple[StudentViewConfig | None, StudentViewConfig | None]:
    """What is done to the view of every network, and then to the student's.

    Raises:
        ConfigError: either corrupts images, and the extra is not installed.
    """
    corrupt = next((one for one in augment if isinstance(one, Corrupt)), None)
    every = None if corrupt is None else StudentViewConfig(corrupt=corrupt.p, **corrupt.model_dump(exclude={"name", "p"}))
    own = None if student is None or student.is_clean else student
    load_library(every, own)
    return every, own


def load_library(*asked: StudentViewConfig | None) -> None:
    """Load the library that makes corruptions, if any is asked for.

    Raises:
        ConfigError: the extra is not installed.
    """
    if not any(one is not None and one.corrupt for one in asked):
        return
    if (missing := corruptions.why_not()) is not None:
        raise ConfigError(f"training on corrupted images: {missing}")
    corruptions.load()  # before loader processes are forked, so that none loads it again


def degrade(pixels: Pixels, how: StudentViewConfig, seed: int) -> Pixels:
    """The view [H, W, 3], corrupted or shrunk and enlarged as often as `how` says; the same one for the same seed.

    A view with a side below 32 px, for which corruptions are not defined, is not corrupted.
    """
    generator = np.random.default_rng(seed)
    corrupted, shrunk = generator.random(2) < (how.corrupt, how.downscale)
    kind = str(generator.choice(how.kinds))
    severity = int(generator.integers(how.severity[0], how.severity[1] + 1))
    factor = float(generator.uniform(how.smallest, 1))
    if shrunk:
        pixels = corruptions.downscale(pixels, factor)
    if corrupted and min(pixels.shape[:2]) >= MIN_SIDE_PX:
        pixels = corruptions.corrupt(pixels, kind, severity, int(generator.integers(2**32)))
    return pixels
