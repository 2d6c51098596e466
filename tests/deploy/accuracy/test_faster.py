"""The corruptions that have loops of their own, against the library's."""

import importlib.metadata
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.accuracy import corruptions
from deploy.accuracy.conditions import CORRUPTIONS, HELD_OUT

imagecorruptions = pytest.importorskip("imagecorruptions")
numba = pytest.importorskip("numba")

from deploy.accuracy import pixel_loops  # noqa: E402 - needs numba, which comes with the library
from deploy.accuracy.faster import FASTER  # noqa: E402

Pixels = NDArray[np.uint8]


def photograph(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth areas of many colors, and noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    return np.asarray(np.clip(coarse + random.integers(-20, 20, coarse.shape), 0, 255), np.uint8)


IMAGES = {
    "smallest": photograph(32, 32),
    "landscape": photograph(75, 133),
    "portrait": photograph(141, 36),
    "gray": photograph(48, 60)[..., :1].repeat(3, axis=2),
    "black": np.zeros((40, 33, 3), np.uint8),
    "white": np.full((33, 40, 3), 255, np.uint8),
}


def library(image: Pixels, corruption: str, severity: int, seed: int) -> Pixels:
    """What imagecorruptions makes of the image, called as its manual says."""
    np.random.seed(seed)  # noqa: NPY002
    options: dict[str, Any] = {"seed": seed} if corruption in {"glass_blur", "impulse_noise"} else {}
    made: Pixels = imagecorruptions.corrupt(image, severity=severity, corruption_name=corruption, **options)
    return made


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("corruption", FASTER)
def test_every_pixel_is_the_librarys(corruption: str, kind: str) -> None:
    for severity in range(1, 6):
        expected = library(IMAGES[kind], corruption, severity, 17 * severity)
        made = corruptions.corrupt(IMAGES[kind], corruption, severity, 17 * severity)
        assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(made, expected), f"severity {severity}: {int((made != expected).sum())} values differ"


@pytest.mark.parametrize("corruption", sorted({*CORRUPTIONS, *HELD_OUT} - FASTER.keys()))
def test_the_others_are_made_by_the_library(corruption: str) -> None:
    assert np.array_equal(corruptions.corrupt(IMAGES["landscape"], corruption, 3, 5), library(IMAGES["landscape"], corruption, 3, 5))


def test_seeds_give_different_pixels() -> None:
    for corruption in set(FASTER) - {"brightness", "contrast", "zoom_blur"}:
        one, other = (corruptions.corrupt(IMAGES["landscape"], corruption, 3, seed) for seed in (1, 2))
        assert (one != other).any(), corruption


def test_a_read_only_view_is_corrupted_too() -> None:
    image = photograph(40, 80)[:, ::2]
    image.flags.writeable = False
    before = image.copy()
    for corruption in FASTER:
        assert np.array_equal(corruptions.corrupt(image, corruption, 2, 3), library(before, corruption, 2, 3)), corruption
    assert np.array_equal(image, before)


def test_of_a_release_that_was_not_compared_the_librarys_own_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "COMPARED", "1.1.4")
    made = corruptions.load.__wrapped__().values()
    assert all(isinstance(one, partial) and one.func is imagecorruptions.corrupt for one in made)
    assert importlib.metadata.version(corruptions.LIBRARY) == "1.1.5", "compare again, then name it in corruptions.COMPARED and here"


def test_loops_are_compiled_even_if_there_is_no_place_to_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def full(*signatures: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*signatures, **options)

    monkeypatch.setattr(numba, "njit", full)
    assert pixel_loops._compiled("int64(int64)")(lambda number: number + 1)(2) == 3


def test_only_images_above_the_benchmarks_largest_are_shrunk() -> None:
    image = photograph(60, 100)
    assert corruptions.at_most(image, 6000) is image
    assert corruptions.at_most(image, 1500).shape == (32, 50, 3)  # no side below 32 px
    assert corruptions.at_most(photograph(120, 200), 6000).shape == (60, 100, 3)
