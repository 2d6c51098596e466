"""Real handwriting on real photographs, composed from a seed; needs no download beyond the wheels of the `train` extra.

Digits and photographs of one split never appear in another; stages/datasets/drawing/embedded.py lists the sources and their licenses.
The split `shifted` (different photographs, different inks, a little blur) shows how a detector generalizes.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from deploy.errors import ConfigError
from deploy.progress import track
from stages.datasets import Source
from stages.datasets.drawing import embedded, scene

PHOTOGRAPHS = {
    "train": ("astronaut", "brick", "chelsea", "china", "coffee", "grass", "retina"),
    "val": ("camera", "cell", "flower"),
    "test": ("clock_motion", "coins", "rocket"),
    "shifted": ("gravel", "hubble_deep_field", "ihc"),
}
_SHARE = {"train": 320, "val": 70, "test": 70, "shifted": 40}  # of the 500 samples of each digit
_INKS = ((255, 244, 214), (255, 214, 96), (255, 176, 92), (255, 158, 138), (158, 240, 192), (140, 208, 255), (255, 178, 214))
_OTHER_INKS = ((206, 255, 110), (200, 176, 255), (120, 246, 236), (255, 132, 170))


def build(
    out: Path,
    *,
    seed: Annotated[int, Field(ge=0)] = 0,
    image_size: Annotated[int, Field(ge=64, le=1024)] = 128,
    train_images: Annotated[int, Field(ge=1, le=100_000)] = 2000,
    val_images: Annotated[int, Field(ge=1, le=100_000)] = 600,
    test_images: Annotated[int, Field(ge=1, le=100_000)] = 600,
    shifted_images: Annotated[int, Field(ge=1, le=100_000)] = 300,
    min_size: Annotated[int, Field(ge=12)] = 28,
    max_size: Annotated[int, Field(ge=12)] = 60,
    min_digits: Annotated[int, Field(ge=0)] = 2,
    max_digits: Annotated[int, Field(ge=1)] = 5,
    tilt: Annotated[float, Field(ge=0, le=45)] = 15.0,
) -> dict[str, Source]:
    """Paint every split into out/images/<split>.

    A digit that does not fit anywhere is left out.

    Args:
        seed: seed for composing the images.
        image_size: side of the square images, in px.
        train_images: number of images in split train.
        val_images: number of images in split val.
        test_images: number of images in split test.
        shifted_images: number of images in split shifted, which has different photographs, different inks and a little blur.
        min_size: height of the smallest digit, in px.
        max_size: height of the largest digit, in px.
        min_digits: minimum number of digits per image.
        max_digits: maximum number of digits per image.
        tilt: maximum tilt of a digit in either direction, in degrees.

    Raises:
        DataError: a wheel is missing.
        ConfigError: the options contradict each other.
    """
    _check_order("min_size", min_size, "max_size", max_size)
    _check_order("min_digits", min_digits, "max_digits", max_digits)
    _check_order("max_size", max_size, "image_size", image_size)
    counts = {"train": train_images, "val": val_images, "test": test_images, "shifted": shifted_images}
    glyphs, labels = embedded.digits()
    groups = _deal(labels, seed)
    sources = {}
    for number, (split, count) in enumerate(counts.items()):
        style = _style(split, image_size, min_size, max_size, min_digits, max_digits, tilt)
        photographs = [scene.soften(embedded.photograph(name), image_size) for name in PHOTOGRAPHS[split]]
        mine = _Pool(style, photographs, glyphs[groups[split]], labels[groups[split]])
        sources[split] = _write(out / "images" / split, mine, [(seed, number, index) for index in range(count)])
    return sources


def identity(**options: Any) -> dict[str, Any]:
    """Digests of the wheels' files, and the painter's version."""
    return {"painter": scene.VERSION} | embedded.fingerprint(tuple(name for names in PHOTOGRAPHS.values() for name in names))


class _Pool(NamedTuple):
    """What one split's images are painted from: glyphs [N, 28, 28] and their labels [N]."""

    style: scene.Style
    photographs: list[Image.Image]
    glyphs: NDArray[np.uint8]
    labels: NDArray[np.int64]


def _style(split: str, side: int, min_size: int, max_size: int, min_digits: int, max_digits: int, tilt: float) -> scene.Style:
    """How a split is painted; "shifted" differs in its inks and is a little blurred."""
    return scene.Style(
        side=side,
        min_size=min_size,
        max_size=max_size,
        min_digits=min_digits,
        max_digits=max_digits,
        tilt=tilt,
        inks=_OTHER_INKS if split == "shifted" else _INKS,
        blur=side / 128 if split == "shifted" else 0.0,
    )


def _check_order(low: str, least: int, high: str, most: int) -> None:
    if least > most:
        raise ConfigError(f"digits: {low} {least} is above {high} {most}; lower {low} or raise {high}")


def _deal(labels: NDArray[np.int64], seed: int) -> dict[str, NDArray[np.int64]]:
    """Which handwritten samples each split may use: the 500 of each digit are shuffled and divided."""
    rng = np.random.default_rng([seed, 99])
    groups: dict[str, list[NDArray[np.int64]]] = {split: [] for split in _SHARE}
    for digit in range(10):
        mine = rng.permutation(np.flatnonzero(labels == digit))
        start = 0
        for split, share in _SHARE.items():
            groups[split].append(mine[start : start + share])
            start += share
    return {split: np.concatenate(parts) for split, parts in groups.items()}


def _write(folder: Path, pool: _Pool, seeds: list[tuple[int, int, int]]) -> Source:
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, seed in enumerate(track(seeds, f"paint {folder.name} images"), start=1):
        image, objects = scene.scene(np.random.default_rng(seed), pool.style, pool.photographs, pool.glyphs, pool.labels)
        name = f"{number:06d}.jpg"
        image.save(folder / name, quality=92, subsampling=0)
        images.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for digit in objects:
            box = scene.tight_box(digit.mask)
            if box is not None:
                annotations.append(_annotation(len(annotations) + 1, number, digit, box))
    categories = [{"id": digit, "name": str(digit), "supercategory": "digit"} for digit in range(10)]
    return Source(folder, {"images": images, "annotations": annotations, "categories": categories})


def _annotation(number: int, image: int, digit: scene.PaintedDigit, box: tuple[float, float, float, float]) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": digit.label,
        "bbox": list(box),
        "area": float(digit.mask.sum()),
        "segmentation": scene.run_lengths(digit.mask),
        "iscrowd": 0,
    }
