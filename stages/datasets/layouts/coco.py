"""COCO's layout: per split, one JSON file of images, annotations and categories, and a folder of images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.layouts import SPLITS

_ANNOTATIONS = ("annotations/instances_{0}.json", "annotations/instances_{0}2017.json", "annotations/instances_{0}2014.json")
_ANNOTATIONS_ELSEWHERE = ("annotations/{0}.json", "{0}/_annotations.coco.json", "{0}.json")
_IMAGES = ("images/{0}2017", "images/{0}2014", "images/{0}", "{0}2017", "{0}2014", "{0}", "images", ".")


@dataclass(frozen=True)
class Pair:
    """A split: its folder of images and its annotation file."""

    images: Path
    annotations: Path


def read(path: Path) -> dict[str, Any]:
    """An annotation file.

    Raises:
        DataError: it is missing, not JSON, or not an object-detection file.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a COCO file; it should hold images, annotations and categories")
    return found


def discover(root: Path) -> dict[str, Pair]:
    """The splits of a COCO folder, by our names.

    Raises:
        DataError: the folder has no annotation file with a known name, or a split's images are missing.
    """
    pairs = {}
    for split, words in SPLITS.items():
        patterns = [pattern.format(word) for pattern in (*_ANNOTATIONS, *_ANNOTATIONS_ELSEWHERE) for word in words]
        annotations = next((root / pattern for pattern in patterns if (root / pattern).is_file()), None)
        if annotations is not None:
            pairs[split] = Pair(_images(root, words, annotations), annotations)
    if not pairs:
        raise DataError(f"{root}: no file such as annotations/instances_train.json; name the files with train_annotations, val_annotations")
    return pairs


def sources(pairs: dict[str, Pair]) -> dict[str, Source]:
    """Every split with its annotations read.

    Raises:
        DataError: a file or folder is missing, or a file is not a COCO file.
    """
    for split, pair in pairs.items():
        if not pair.images.is_dir():
            raise DataError(f"{pair.images}: no such folder; it should hold the {split} images")
    return {split: Source(pair.images, read(pair.annotations)) for split, pair in pairs.items()}


def _images(root: Path, words: tuple[str, ...], annotations: Path) -> Path:
    """The folder that contains one of the first images named in the file; if none does, the first that exists."""
    folders = [root / pattern.format(word) for pattern in _IMAGES for word in words]
    present = [folder for folder in [*folders, annotations.parent] if folder.is_dir()]
    rows = read(annotations).get("images")
    names = [row.get("file_name") for row in rows[:20] if isinstance(row, dict)] if isinstance(rows, list) else []
    for folder in present:
        if any(isinstance(name, str) and (folder / name).is_file() for name in names):
            return folder
    return present[0]
