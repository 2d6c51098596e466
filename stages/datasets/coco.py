"""A folder in COCO's layout, or images and annotations named one by one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.layouts import coco, coco_files, folder
from stages.datasets.layouts.coco_files import Pair


def build(
    out: Path,
    *,
    root: str | None = None,
    train_images: str | None = None,
    train_annotations: str | None = None,
    val_images: str | None = None,
    val_annotations: str | None = None,
    test_images: str | None = None,
    test_annotations: str | None = None,
    boxes: Literal["xywh", "xyxy", "cxcywh", "fractions", "xyxy_fractions", "cxcywh_fractions"] | None = None,
) -> dict[str, Source]:
    """Read the splits below `root` (files such as annotations/instances_train.json), or the given pairs, relative to `root` if any.

    A single annotation file that is not named for a split is train.

    Args:
        root: the data folder, or the folder that the paths below are relative to.
        train_images: folder of the training images.
        train_annotations: COCO file for the training images.
        val_images: folder of the validation images.
        val_annotations: COCO file for the validation images.
        test_images: folder of the images of a third split.
        test_annotations: COCO file for the third split.
        boxes: what the four numbers of a box are; null: xywh (left, top, width, height in px), unless the file contradicts it.

    Raises:
        DataError: a file or folder is missing, a file is not a COCO file, or its entries could mean two things.
    """
    named = {
        "train": (train_images, train_annotations),
        "val": (val_images, val_annotations),
        "test": (test_images, test_annotations),
    }
    return coco.sources(_pairs(root, named), boxes)


def image_files(
    *,
    root: str | None = None,
    boxes: Literal["xywh", "xyxy", "cxcywh", "fractions", "xyxy_fractions", "cxcywh_fractions"] | None = None,
    **named: str | None,
) -> list[list[Path]]:
    """The images of each split, as the annotation files name them."""
    pairs = _pairs(root, _named(named))
    return [[pair.images / name for name in coco_files.file_names(pair.annotations)] for pair in pairs.values()]


def identity(
    *,
    root: str | None = None,
    boxes: Literal["xywh", "xyxy", "cxcywh", "fractions", "xyxy_fractions", "cxcywh_fractions"] | None = None,
    **named: str | None,
) -> dict[str, Any]:
    """Digests of the annotation files, of the images' names, sizes and times, and of the splits."""
    return coco.identity(_pairs(root, _named(named)))


def _named(options: Mapping[str, str | None]) -> dict[str, tuple[str | None, str | None]]:
    return {split: (options.get(f"{split}_images"), options.get(f"{split}_annotations")) for split in ("train", "val", "test")}


def _pairs(root: str | None, named: dict[str, tuple[str | None, str | None]]) -> dict[str, Pair]:
    base = Path() if root is None else folder(root, "coco")
    pairs = {}
    for split, (images, annotations) in named.items():
        if (images is None) != (annotations is None):
            missing = "images" if images is None else "annotations"
            raise DataError(f"data.{split}_{missing} is missing; set data.{split}_images and data.{split}_annotations together")
        if images is not None and annotations is not None:
            pairs[split] = Pair(base / Path(images).expanduser(), base / Path(annotations).expanduser())
    if pairs:
        return pairs
    if root is None:
        raise DataError("dataset coco: set data.root, or data.train_images, train_annotations, val_images and val_annotations")
    return coco.discover(base)
