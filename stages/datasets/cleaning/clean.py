"""Removes from COCO annotations what cannot be learned or measured, and reports what was removed.

Removed: images that are missing or cannot be decoded, with their objects; boxes without an area, with a coordinate that is not
finite, or entirely outside their image; masks that cannot be read, whose objects stay. Kept as COCO defines them: crowds, images
without objects, boxes that extend beyond the edge (they show how large the object is; training clips its own views). Width and
height are the upright image's, whatever the file states; if the annotations were made on an image before its EXIF rotation,
their boxes and masks are rotated with it.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from deploy.prediction import image_files, masks
from stages.datasets import Source
from stages.datasets.cleaning.images import ImageFile, Unusable
from stages.notes import Note

Transform = Callable[[float, float], tuple[float, float]]
Box = tuple[float, float, float, float]
MAX_NAMED = 5


@dataclass
class Problems:
    """The number of problems of each kind, and the first few by name."""

    count: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Count one more problem."""
        self.count[kind] = self.count.get(kind, 0) + 1
        names = self.named.setdefault(kind, [])
        if len(names) < MAX_NAMED:
            names.append(name)

    def take(self, notes: Iterable[Note]) -> None:
        """Count what was noted on the images."""
        for note in notes:
            self.count[note.kind] = self.count.get(note.kind, 0) + note.count
            self.named.setdefault(note.kind, []).extend(f"{note.split}: {example}" for example in note.examples)

    def first(self) -> str | None:
        """The first problem in words; None if there is none."""
        return next((f"{kind}: {names[0]}" for kind, names in self.named.items()), None)


def clean(split: str, source: Source, files: Sequence[ImageFile | Unusable], problems: Problems) -> dict[str, Any]:
    """A split's COCO dictionary with only what is usable, and only COCO's own keys.

    Args:
        files: what was found for each of the source's images, in their order.
        problems: everything that is left out or corrected is added to them.
    """
    images: dict[int, _Image] = {}
    for row, file in zip(source.coco["images"], files, strict=True):
        if isinstance(file, Unusable):
            problems.add(file.kind, f"{split}: {file.reason}")
        else:
            images[row["id"]] = _image(split, row, file, problems)
    annotations = []
    for row in source.coco["annotations"]:
        if row["image_id"] in images:
            kept = _annotation(split, row, images[row["image_id"]], problems)
            if kept is not None:
                annotations.append(kept)
    kinds = [{key: row[key] for key in ("id", "name", "supercategory") if key in row} for row in source.coco["categories"]]
    return {"images": [image.row() for image in images.values()], "annotations": annotations, "categories": kinds}


def read_box(value: Any) -> Box | None:
    """A COCO box (x, y, width, height) with an area; None if it is degenerate or not finite."""
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(map(_number, value)):
        return None
    x, y, w, h = map(float, value)
    return (x, y, w, h) if w > 0 and h > 0 else None


@dataclass(frozen=True)
class _Image:
    number: int
    name: str
    file: ImageFile
    turn: Transform | None

    def row(self) -> dict[str, Any]:
        return {"id": self.number, "file_name": self.name, "width": self.file.width, "height": self.file.height}


def _image(split: str, row: Mapping[str, Any], file: ImageFile, problems: Problems) -> _Image:
    annotated, found = (row.get("width"), row.get("height")), (file.width, file.height)
    if None in annotated or annotated == found:
        return _Image(row["id"], row["file_name"], file, None)
    turn = _turn(file) if file.turned and annotated == found[::-1] else None
    done = "boxes turned with it" if turn else "the file is trusted"
    text = f"{split}: {row['file_name']} is {found[0]} x {found[1]} px, annotated as {annotated[0]} x {annotated[1]}; {done}"
    problems.add("size disagrees", text)
    return _Image(row["id"], row["file_name"], file, turn)


def _annotation(split: str, row: Mapping[str, Any], image: _Image, problems: Problems) -> dict[str, Any] | None:
    box = read_box(row.get("bbox"))
    if box is not None and image.turn is not None:
        box = _turn_box(box, image.turn)
    if box is None or not _touches(box, image.file):
        kind = "degenerate box" if box is None else "box outside its image"
        problems.add(kind, f"{split}: annotation {row['id']} of {image.name}, bbox {json.dumps(row.get('bbox'))[:80]}")
        return None
    x, y, w, h = box
    area = row.get("area", 0)
    kept = {"id": row["id"], "image_id": row["image_id"], "category_id": row["category_id"], "bbox": [x, y, w, h]}
    kept |= {"area": float(area) if _number(area) and area > 0 else w * h, "iscrowd": int(row.get("iscrowd") in (1, True))}
    segmentation = _segmentation(row.get("segmentation"), image)
    if row.get("segmentation") and not segmentation:
        problems.add("unusable mask", f"{split}: annotation {row['id']} of {image.name}, segmentation {str(row['segmentation'])[:80]}")
    return kept | ({"segmentation": segmentation} if segmentation else {})


def _segmentation(found: Any, image: _Image) -> Any:
    """Polygons or a run-length code, rotated if their image was; None if there is none, or none that can be kept."""
    if isinstance(found, Mapping):
        return _code(found, image)
    polygons = found if isinstance(found, list) else []
    polygons = [poly for poly in polygons if isinstance(poly, list) and len(poly) >= 6 and len(poly) % 2 == 0 and all(map(_number, poly))]
    turn = image.turn
    if turn is None:
        return polygons
    return [[value for x, y in zip(poly[::2], poly[1::2], strict=True) for value in turn(x, y)] for poly in polygons]


def _code(found: Mapping[str, Any], image: _Image) -> Any:
    """A run-length code with the image's size and at least one px; None for any other code."""
    size = image.file.height, image.file.width
    try:
        mask = masks.decode(found, size if image.turn is None else size[::-1])
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError):  # a code from elsewhere may contain anything
        return None
    if not mask.any():
        return None
    if image.turn is None:
        return {"size": list(size), "counts": found["counts"]}
    return masks.encode(image_files.upright(mask, image.file.orientation), size)


def _turn(file: ImageFile) -> Transform:
    """Maps a point of the image as stored to the same point of the upright image."""
    width, height = file.width, file.height
    turns: dict[int, Transform] = {
        5: lambda x, y: (y, x),
        6: lambda x, y: (width - y, x),
        7: lambda x, y: (width - y, height - x),
        8: lambda x, y: (y, height - x),
    }
    return turns[file.orientation]


def _turn_box(box: Box, turn: Transform) -> Box:
    x, y, w, h = box
    (left, top), (right, bottom) = turn(x, y), turn(x + w, y + h)
    return min(left, right), min(top, bottom), abs(right - left), abs(bottom - top)


def _touches(box: Box, file: ImageFile) -> bool:
    x, y, w, h = box
    return x < file.width and y < file.height and x + w > 0 and y + h > 0


def _number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
