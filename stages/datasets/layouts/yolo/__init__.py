"""YOLO's layout: one text file per image with lines `class x y width height` in fractions of the upright image.

x and y are the center. A line with more numbers is a polygon, as in YOLO's segmentation files, or a box and its keypoints if the data
file has kpt_shape. Read as Ultralytics, Roboflow, CVAT, Label Studio, labelImg and darknet write it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.datasets import Source
from stages.datasets.cleaning.images import size
from stages.datasets.layouts import SPLITS, list_images, nearby, shared_images
from stages.datasets.layouts.text import read_text
from stages.datasets.layouts.yolo import head, kinds, lines, meaning, names, places
from stages.datasets.layouts.yolo.head import DataFile
from stages.datasets.layouts.yolo.meaning import Place
from stages.datasets.layouts.yolo.pairs import Labels, candidates
from stages.notes import Notes

_INNER = ("images", "labels", "obj_train_data", *(word for words in SPLITS.values() for word in words))


@dataclass(frozen=True)
class YoloFolder:
    """The image files of each split, the label file of each image that has one, and the class names by number.

    `heads` are the other files that were read; `unread` are images in formats that are not read.
    """

    root: Path
    images: Mapping[str, tuple[Path, ...]]
    labels: Labels
    names: Mapping[int, str]
    data: DataFile
    heads: tuple[Path, ...]


def discover(root: Path, given: Sequence[str] | None, notes: Notes) -> YoloFolder:
    """Find the images by the data file, otherwise by the usual folders or lists; without any, all images are one split, train.

    Args:
        given: class names; None takes those of the data file or of a list of names.
        notes: what was repaired, assumed or left out is added to them.

    Raises:
        DataError: it is not a YOLO folder, a file cannot be understood, or there are no class names.
    """
    base = Path(os.path.normpath(_base(root)))
    data = head.find(base, notes, "train")
    finder = places.Images(base, data, notes)
    images = finder.find()
    if not images:
        raise DataError(f"{root}: no data.yaml with train and val, and no folder images/train with images; is it a YOLO folder?")
    first = next(iter(images))
    if base.resolve() != root.resolve():
        notes.add(kinds.ROOT, first, f"{base} is read, not {root}")
    named = names.read(base, data, given, notes, first)
    lists = names.files_of(base, data)
    labels = Labels(base, images, [*lists, *finder.lists, *_lists(base)], notes)
    if not labels.of:
        _refuse_unlabeled(base, images)
    heads = [] if data.path is None else [data.path]
    return YoloFolder(base, images, labels, named, data, (*heads, *lists, *finder.lists))


def in_splits(layout: YoloFolder) -> Iterator[tuple[str, ...]]:
    """Split, image and label file, if it has one, of every image, as paths from the data folder if they are in it."""
    for split, images in layout.images.items():
        for image in images:
            files = filter(None, (image, layout.labels.of.get(image)))
            yield split, *(_inside(layout.root, path) for path in files)


def _inside(root: Path, path: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path.absolute()).as_posix()


def sources(layout: YoloFolder, notes: Notes) -> dict[str, Source]:
    """Every split as COCO; category ids are the class numbers.

    Raises:
        DataError: lines cannot be understood, or have two meanings.
    """
    read = {split: _read(layout, split, notes) for split in layout.images}
    meaning.check([place for rows in read.values() for found in rows.values() for place in found], layout.names, layout.data)
    found = {split: _coco(layout, split, rows, notes) for split, rows in read.items()}
    shared_images.add(notes, {split: [(path, _inside(layout.root, path)) for path in paths] for split, paths in layout.images.items()})
    return {split: Source(layout.root, coco, tuple(note for note in notes if note.split == split)) for split, coco in found.items()}


def _base(root: Path) -> Path:
    """The data folder: the root, or one a level below or above that is one."""
    if _fits(root):
        return root
    found = nearby(root, _fits)
    is_above = root.resolve().is_relative_to(found.resolve())
    return root if is_above and root.resolve().name.lower() not in _INNER else found


def _fits(root: Path) -> bool:
    if head.fits(root) or any(places.conventional(root, split) for split in SPLITS):
        return True
    inner = [folder for folder in (root, root / "labels", root / "images") if folder.is_dir()]
    return any(names.is_list(path) for folder in inner for path in folder.iterdir()) and bool(list_images(root))


def _lists(root: Path) -> Iterator[Path]:
    for words in SPLITS.values():
        yield from (root / f"{word}.txt" for word in words)


def _refuse_unlabeled(root: Path, images: Mapping[str, Sequence[Path]]) -> None:
    """Refuse a folder none of whose images has a label file; images that are all missing are for cleaning to report."""
    paths = [path for found in images.values() for path in found if path.is_file()]
    if paths:
        looked = " and ".join(dict.fromkeys(str(path) for path in [*candidates(root, paths[0])][::3][:2]))
        raise DataError(f"{root}: none of its {len(paths)} images has a label file; for {paths[0].name} looked for {looked}, for example")


def _read(layout: YoloFolder, split: str, notes: Notes) -> dict[Path, list[Place]]:
    """The lines of every image's label file.

    Raises:
        DataError: most lines cannot be read.
    """
    numbers = {name: number for number, name in layout.names.items()}
    read: dict[Path, list[Place]] = {}
    unreadable: list[str] = []
    for image in layout.images[split]:
        label = layout.labels.of.get(image)
        found = read.setdefault(image, [])
        if label is None:
            continue
        for number, text in enumerate(read_text(label, notes, split).splitlines(), start=1):
            if lines.is_blank(text):
                continue
            line = lines.parse(number, text, numbers)
            if line is None or not _has_meaning(line, layout.data):
                unreadable.append(f"{label}:{number}: '{text.strip()[:80]}'")
            else:
                found.append(Place(label, line))
    num_lines = len(unreadable) + sum(map(len, read.values()))
    meaning.check_readable(unreadable, num_lines)
    for where in unreadable:
        notes.add(kinds.UNREADABLE, split, where)
    return read


def _has_meaning(line: lines.ReadLine, data: DataFile) -> bool:
    """Whether the line has as many numbers as a box, a box with its confidence or keypoints, or a polygon."""
    count = len(line.values)
    if count == 4:
        return True
    if count == 5:
        return 0 <= line.values[4] <= 1
    if data.keypoints is not None:
        return count == 4 + data.keypoints[0] * data.keypoints[1]
    return count % 2 == 0 or meaning.has_visibility(line.values)


def _coco(layout: YoloFolder, split: str, rows: Mapping[Path, Sequence[Place]], notes: Notes) -> dict[str, Any]:
    root = layout.root
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (path, found) in enumerate(rows.items(), start=1):
        inside = _inside(root, path)
        images.append({"id": number, "file_name": inside})
        measured = size(path) if found else None
        if measured is None:
            continue
        images[-1] |= {"width": measured[0], "height": measured[1]}
        for place in found:
            fields = _object(place, _Context(layout, split, inside, notes), measured)
            if fields is not None:
                annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0} | fields)
    categories = [{"id": number, "name": name} for number, name in layout.names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


@dataclass(frozen=True)
class _Context:
    layout: YoloFolder
    split: str
    image: str
    notes: Notes

    def where(self, place: Place) -> str:
        file = place.file.relative_to(self.layout.root) if place.file.is_relative_to(self.layout.root) else place.file
        return f"{file.as_posix()}:{place.line.number}: {place.line.text.strip()[:60]}"


def _object(place: Place, context: _Context, size: tuple[int, int]) -> dict[str, Any] | None:
    """A line as an annotation; None if it is left out; if its box is degenerate, the text as written, for cleaning to report."""
    line, where = place.line, context.where(place)
    is_box = len(line.values) in (4, 5) or context.layout.data.keypoints is not None or len(line.values) % 2 == 1
    values = line.values[:4] if is_box else _around(line.values)
    category = {"category_id": line.category}
    if not meaning.has_area(values):
        return category | {"bbox": where}
    if max(values[2:]) > meaning.LARGEST:
        context.notes.add(kinds.TOO_LARGE, context.split, where, image=context.image)
        return None
    for kind in (*line.repairs, *_remarks(line, context.layout.data)):
        context.notes.add(kind, context.split, where, image=context.image)
    x, y, w, h = values
    box = {"bbox": [(x - w / 2) * size[0], (y - h / 2) * size[1], w * size[0], h * size[1]]}
    polygon = [value * size[index % 2] for index, value in enumerate(line.values)]
    return category | box | ({} if is_box else {"segmentation": [polygon]})


def _remarks(line: lines.ReadLine, data: DataFile) -> Iterator[Any]:
    count = len(line.values)
    if count in (4, 5) and meaning.is_beyond(line.values):
        yield kinds.BEYOND
    if count == 5:
        yield kinds.CONFIDENCE
    elif count > 5 and data.keypoints is not None:
        yield kinds.KEYPOINTS
    elif count % 2 == 1:
        yield kinds.VISIBILITY
    elif count == 8:
        yield kinds.ROTATED


def _around(polygon: Sequence[float]) -> tuple[float, float, float, float]:
    """Center and size of the box around a polygon."""
    across, down = polygon[::2], polygon[1::2]
    left, top, right, bottom = min(across), min(down), max(across), max(down)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
