"""Finds boxes that nobody draws: all below a px or two, or the same in almost every image. They are used as they are, and counted."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.notes import Kind, Notes

TINY = Kind("box below 2 px, perhaps a fraction", "assumed", "boxes")
COPIED = Kind("the same boxes as in almost all images", "assumed", "images")

_TINY_PX = 2.0
_TINY_SHARE = 0.5
_COPIED_IMAGES, _COPIED_SHARE = 10, 0.9
"""With fewer images, or a smaller share of those with objects, the same boxes may be a coincidence."""


def add(notes: Notes, split: str, images: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> None:
    """Note boxes of a split that are hardly meant as they are written.

    Args:
        images: COCO's rows of the usable images.
        found: rows with the boxes as they are written, of these images only; they are gone through several times.
    """
    names = {row["id"]: str(row["file_name"]) for row in images}
    _add_tiny(notes, split, names, found)
    _add_copied(notes, split, images, found)


def _add_tiny(notes: Notes, split: str, names: Mapping[int, str], found: Sequence[Mapping[str, Any]]) -> None:
    num = sum(max(row["bbox"][2:]) < _TINY_PX for row in found)
    for row in found if num > _TINY_SHARE * len(found) else ():
        if max(row["bbox"][2:]) < _TINY_PX:
            name = names[row["image_id"]]
            notes.add(TINY, split, f"annotation {row['id']} of {name}, used as {list(row['bbox'])} px", image=name)


def _add_copied(notes: Notes, split: str, images: Sequence[Mapping[str, Any]], found: Iterable[Mapping[str, Any]]) -> None:
    """In px and in fractions of the image: labels are copied in either unit."""
    by_image: dict[int, array[float]] = {}
    for row in found:
        by_image.setdefault(row["image_id"], array("d")).extend((row["category_id"], *row["bbox"]))
    labeled = [row for row in images if row["id"] in by_image]
    if len(labeled) < _COPIED_IMAGES:
        return
    in_px = [_drawing(by_image[row["id"]], 1, 1, digits=1) for row in labeled]
    in_parts = [_drawing(by_image[row["id"]], row["width"], row["height"], digits=3) for row in labeled]
    drawings = max(in_px, in_parts, key=lambda every: Counter(every).most_common(1)[0][1])
    usual, count = Counter(drawings).most_common(1)[0]
    if count < _COPIED_SHARE * len(labeled):
        return
    for row, drawing in zip(labeled, drawings, strict=True):
        if drawing == usual:
            name = str(row["file_name"])
            notes.add(COPIED, split, f"{name}, like {count} of {len(labeled)} images with objects; were labels copied?", image=name)


def _drawing(boxes: Sequence[float], width: float, height: float, *, digits: int) -> bytes:
    """A digest of an image's classes and boxes, five numbers for each, in any order, in these units, rounded."""
    places = iter(boxes)
    drawn = sorted(
        (kind, round(x / width, digits), round(y / height, digits), round(w / width, digits), round(h / height, digits))
        for kind, x, y, w, h in zip(*[places] * 5, strict=True)
    )
    return hashlib.sha256(array("d", (value + 0.0 for one in drawn for value in one)).tobytes()).digest()  # + 0.0: no negative zero
