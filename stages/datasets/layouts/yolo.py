"""YOLO's layout: one text file per image with lines `class x y width height` in fractions, read with globox (MIT).

A line with more numbers is a polygon, as in YOLO's segmentation files. An image without a text file has no objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.cleaning.images import size
from stages.datasets.layouts import SPLITS, globox, list_images


@dataclass(frozen=True)
class YoloFolder:
    """The image files of each split, and the class names in the order of their numbers."""

    images: Mapping[str, tuple[Path, ...]]
    names: tuple[str, ...]


def discover(root: Path, names: Sequence[str] | None = None) -> YoloFolder:
    """Read data.yaml (or any YAML file in the folder); without one, use images/<split> and `names` or classes.txt.

    Raises:
        DataError: neither exists, the file cannot be understood, or there are no class names.
    """
    file = next((path for name in ("data.yaml", "dataset.yaml", "*.yaml", "*.yml") for path in sorted(root.glob(name))), None)
    head = _read_yaml(file) if file else {}
    found: dict[str, tuple[Path, ...]] = {}
    for split, words in SPLITS.items():
        entry = next((head[word] for word in words if head.get(word)), None)
        if entry is not None:
            found[split] = tuple(path for one in _as_list(entry) for path in _entry(root, head, str(one)))
        elif not head:
            folders = [root / place for word in words for place in (f"images/{word}", f"{word}/images") if (root / place).is_dir()]
            found |= {split: tuple(list_images(folders[0]))} if folders else {}
    if not found:
        raise DataError(f"{root}: no data.yaml with train and val, and no folder images/train; is it a YOLO folder?")
    return YoloFolder(found, _names(root, head, names))


def label_file(image: Path) -> Path:
    """The file that lists an image's objects: the last folder named images becomes labels; without one, it is next to the image."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def sources(root: Path, layout: YoloFolder) -> dict[str, Source]:
    """Every split as COCO; category ids are the class numbers, from 0.

    Raises:
        DataError: a line cannot be understood.
    """
    return {split: _source(root, paths, layout.names) for split, paths in layout.images.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: should be a mapping with train, val and names")
    return found


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _entry(root: Path, head: Mapping[str, Any], text: str) -> list[Path]:
    """The images of a folder, or of a text file that lists them; a leading ../ that leads nowhere is dropped."""
    bases = [root / str(head.get("path", "")), root]
    tried = [base / one for base in bases for one in (text, text.removeprefix("../"))]
    path = next((one for one in tried if one.exists()), None)
    if path is None:
        raise DataError(f"{tried[0]}: no such folder or list of images")
    if path.is_dir():
        return list_images(path)
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [path.parent / line for line in lines if line]


def _names(root: Path, head: Mapping[str, Any], given: Sequence[str] | None) -> tuple[str, ...]:
    names: Any = given or head.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{root}: the numbers of names should run from 0 to {len(names) - 1}, got {sorted(names)}")
        names = [names[number] for number in range(len(names))]
    if not names and (root / "classes.txt").is_file():
        names = [line.strip() for line in (root / "classes.txt").read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise DataError(f"{root}: no class names; list them as names in data.yaml, in classes.txt or as data.names")
    return tuple(str(name) for name in names)


def _source(root: Path, paths: Sequence[Path], names: Sequence[str]) -> Source:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, path in enumerate(paths, start=1):
        inside = path.relative_to(root) if path.is_relative_to(root) else path.absolute()
        image: dict[str, Any] = {"id": number, "file_name": inside.as_posix()}
        images.append(image)
        measured = size(path)
        labels = label_file(path)
        if measured is None or not labels.is_file():
            continue
        image |= {"width": measured[0], "height": measured[1]}
        for line, text in enumerate(labels.read_text(encoding="utf-8").splitlines(), start=1):
            if text.strip():
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0} | _object(f"{labels}:{line}", text, measured)
                )
    return Source(root, {"images": images, "annotations": annotations, "categories": _categories(names)})


def _categories(names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(names)]


def _object(where: str, text: str, size: tuple[int, int]) -> dict[str, Any]:
    """A line as an annotation; if the box is impossible, the text as written, for cleaning to report and leave out."""
    library, words = globox(), text.split()
    try:
        category = int(words[0])
        if len(words) > 6:
            return {"category_id": category} | _polygon([float(word) for word in words[1:]], size)
        box = library.BoundingBox.from_yolo_v5(text, image_size=size)
    except AssertionError:
        return {"category_id": category, "bbox": text}
    except (library.ParsingError, ValueError) as error:
        raise DataError(f"{where}: '{text}' is not 'class x y width height'") from error
    return {"category_id": category, "bbox": [box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin]}


def _polygon(values: list[float], size: tuple[int, int]) -> dict[str, Any]:
    if len(values) % 2:
        raise ValueError("an odd number of coordinates")
    across, down = [x * size[0] for x in values[::2]], [y * size[1] for y in values[1::2]]
    points = [value for pair in zip(across, down, strict=True) for value in pair]
    left, top = min(across), min(down)
    return {"bbox": [left, top, max(across) - left, max(down) - top], "segmentation": [points]}
