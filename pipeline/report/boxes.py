"""Boxes on a picture: which detections found an object, which are wrong, and what was missed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploy.accuracy.drift import overlaps
from deploy.prediction.detections import by_image, corners
from pipeline.report.charts import shortened

SCORE = 0.3
"""Boxes with a lower score than this are not drawn."""

IOU = 0.5
"""A box with at least this IoU with an object of its class has found the object."""

MOST_TAGGED = 30
"""Boxes in an image with more objects have no tags, which would cover them."""

LONGEST_TAG = 14
TAG_HEIGHT = 0.062
"""Height of a tag, as a fraction of the picture's width."""

BoxKind = Literal["truth", "crowd", "found", "wrong", "missed"]
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Tag:
    """Text on a picture; place and size in px."""

    text: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class DrawnBox:
    """A rectangle in px of the picture, and the text on its tag ("" for none); `shape` is its mask in one of COCO's forms."""

    kind: BoxKind
    x: float
    y: float
    width: float
    height: float
    words: str = ""
    tag: Tag | None = None
    shape: Any = None


@dataclass(frozen=True)
class View:
    """One network's boxes on a picture; `series` is teacher, baseline, student or truth, `masks` a data URI of its masks or empty."""

    series: str
    boxes: tuple[DrawnBox, ...]
    found: int
    wrong: int
    missed: int
    masks: str = ""


@dataclass(frozen=True)
class MatchedObject:
    """An object of the ground truth, or a detection; `shape` is its mask in one of COCO's forms."""

    corners: Corners
    category: int
    score: float = 1.0
    crowd: bool = False
    shape: Any = None


def match_boxes(series: str, truth: Sequence[MatchedObject], detections: Sequence[MatchedObject], names: Mapping[int, str]) -> View:
    """Match the detections above SCORE to the objects, highest score first, each object once."""
    objects = [o for o in truth if not o.crowd]
    sure = sorted((d for d in detections if d.score >= SCORE), key=lambda d: -d.score)
    covered = overlaps(_array(sure), _array(objects))
    unfound = list(range(len(objects)))
    boxes: list[DrawnBox] = []
    for detection, shares in zip(sure, covered, strict=True):
        same = [i for i in unfound if objects[i].category == detection.category and shares[i] >= IOU]
        if same:
            unfound.remove(max(same, key=lambda i: float(shares[i])))
        elif any(o.crowd and o.category == detection.category and _covered(detection.corners, o.corners) for o in truth):
            continue
        name = shortened(names[detection.category], LONGEST_TAG)
        boxes.append(_box("found" if same else "wrong", detection, f"{name} {detection.score:.2f}"))
    boxes.sort(key=lambda box: box.kind)
    missed = [_box("missed", objects[i], "") for i in unfound]
    wrong = sum(box.kind == "wrong" for box in boxes)
    return View(series, (*missed, *boxes), len(boxes) - wrong, wrong, len(missed))


def objects_of(rows: Iterable[Mapping[str, Any]], ids: Iterable[int]) -> dict[int, list[MatchedObject]]:
    """COCO annotations or results as objects, one list for each of these images."""
    return {number: [_object(row) for row in own] for number, own in by_image(rows, ids).items()}


def _object(row: Mapping[str, Any]) -> MatchedObject:
    return MatchedObject(
        corners(row["bbox"]), row["category_id"], row.get("score", 1.0), bool(row.get("iscrowd", 0)), row.get("segmentation")
    )


def _array(objects: Sequence[MatchedObject]) -> NDArray[np.float64]:
    return np.array([o.corners for o in objects], np.float64).reshape(-1, 4)


def truth_view(truth: Sequence[MatchedObject], names: Mapping[int, str]) -> View:
    """The objects of the ground truth."""
    boxes = [_box("crowd" if o.crowd else "truth", o, shortened(names[o.category], LONGEST_TAG)) for o in truth]
    return View("truth", tuple(boxes), sum(box.kind == "truth" for box in boxes), 0, 0)


def tagged(view: View, width: int, height: int) -> View:
    """The same boxes with their tags, on a picture of width x height px: next to the box and, if there is room, not overlapping."""
    taken: list[Corners] = []
    boxes = []
    for box in view.boxes:
        tag = _tag(box, width, height, taken) if box.words else None
        if tag is not None:
            taken.append(_corners(tag))
        boxes.append(replace(box, tag=tag))
    return replace(view, boxes=tuple(boxes))


def _tag(box: DrawnBox, width: int, height: int, taken: Sequence[Corners]) -> Tag:
    """The first of five places that is free, otherwise the first inside the picture."""
    high = round(width * TAG_HEIGHT, 1)
    wide = round(high * (0.48 * len(box.words) + 0.4), 1)
    right, bottom = box.x + box.width, box.y + box.height
    places = [(box.x, box.y - high), (right - wide, box.y - high), (box.x, bottom), (right - wide, bottom), (box.x, box.y)]
    tags = [Tag(box.words, round(min(max(x, 0), width - wide), 1), round(y, 1), wide, high) for x, y in places]
    within = [tag for tag in tags if 0 <= tag.y <= height - high] or [replace(tags[-1], y=round(min(max(box.y, 0), height - high), 1))]
    return next((tag for tag in within if not any(_shared(_corners(tag), other) for other in taken)), within[0])


def _corners(tag: Tag) -> Corners:
    return tag.x, tag.y, tag.x + tag.width, tag.y + tag.height


def _box(kind: BoxKind, found: MatchedObject, words: str) -> DrawnBox:
    x1, y1, x2, y2 = found.corners
    return DrawnBox(kind, round(x1, 1), round(y1, 1), round(x2 - x1, 1), round(y2 - y1, 1), words, shape=found.shape)


def _shared(one: Corners, other: Corners) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _area(box: Corners) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def _covered(box: Corners, by: Corners) -> bool:
    return _shared(box, by) >= IOU * _area(box)
