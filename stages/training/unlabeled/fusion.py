"""Detections of several views of an image become one set: boxes that show the same object are averaged.

Radosavovic et al., "Data Distillation: Towards Omni-Supervised Learning", CVPR 2018: a network labels better if its answers to several
forms of an image are joined. Boxes are joined as in Solovyev et al., "Weighted boxes fusion", Image and Vision Computing 2021, with one
departure: a score is divided by the number of views that show the whole object, as windows do not show all of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deploy.accuracy.drift import overlaps
from deploy.prediction.detections import Detections

Floats = NDArray[np.float64]

ZOOM = 1.25
"""How much larger a window shows its objects."""
SAME = 0.55
"""Boxes of a class that overlap by this much (IoU) show the same object."""
EDGE = 0.02
"""Share of a window's side within which a box may have been cut off by it."""


@dataclass(frozen=True)
class ViewWindow:
    """A part of an image, as fractions of its width and height, which may be mirrored left to right."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    mirrored: bool = False

    def cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What it shows of an image [H, W, 3]."""
        left, top, right, bottom = self._bounds(pixels.shape[1], pixels.shape[0])
        part = pixels[top:bottom, left:right]
        return np.ascontiguousarray(part[:, ::-1] if self.mirrored else part)

    def undo(self, found: Detections, width: int, height: int) -> Detections:
        """Detections in px of the cut as those in px of an image of this size; without what the window may have cut off."""
        left, top, right, _ = self._bounds(width, height)
        boxes = found.boxes.copy()
        if self.mirrored:
            boxes[:, [0, 2]] = (right - left) - boxes[:, [2, 0]]
        boxes = boxes + np.array([left, top, left, top], dtype=np.float64)
        kept = self.shows(boxes, width, height)
        return Detections(boxes[kept], found.scores[kept], found.labels[kept])

    def shows(self, boxes: Floats, width: int, height: int) -> NDArray[np.bool_]:
        """Which boxes [N, 4] in px of an image of this size it shows whole."""
        left, top, right, bottom = self._bounds(width, height)
        x, y = EDGE * (right - left), EDGE * (bottom - top)
        inner = [
            left + x if left > 0 else -np.inf,
            top + y if top > 0 else -np.inf,
            right - x if right < width else np.inf,
            bottom - y if bottom < height else np.inf,
        ]
        return np.asarray((boxes[:, :2] >= inner[:2]).all(axis=1) & (boxes[:, 2:] <= inner[2:]).all(axis=1))

    def _bounds(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in whole px."""
        left, top = round(self.left * width), round(self.top * height)
        return left, top, max(left + 1, round(self.right * width)), max(top + 1, round(self.bottom * height))


WHOLE = ViewWindow()
_SIDE = 1 / ZOOM
CORNERS = tuple(ViewWindow(x, y, x + _SIDE, y + _SIDE) for y in (0.0, 1 - _SIDE) for x in (0.0, 1 - _SIDE))


def mirrored(window: ViewWindow) -> ViewWindow:
    """The same part, mirrored left to right."""
    return replace(window, mirrored=True)


def fused(seen: Sequence[tuple[ViewWindow, Detections]], width: int, height: int, most: int) -> Detections:
    """The objects of an image of this size in px, from its views' detections in px of the image; at most `most`, the surest first."""
    rows = np.concatenate([np.full(len(found), number) for number, (_, found) in enumerate(seen)])
    boxes = np.concatenate([found.boxes for _, found in seen])
    scores = np.concatenate([found.scores for _, found in seen]).astype(np.float64)
    labels = np.concatenate([found.labels for _, found in seen])
    groups = _Groups(len(scores))
    for index in np.argsort(-scores, kind="mergesort"):
        groups.add(boxes[index], scores[index], labels[index], rows[index])
    means, sums, kinds = groups.all()
    views = np.sum([window.shows(means, width, height) for window, _ in seen], axis=0)
    surest = np.minimum(1.0, sums / np.maximum(1, views))
    order = np.argsort(-surest, kind="mergesort")[:most]
    return Detections(means[order], surest[order].astype(np.float32), kinds[order])


class _Groups:
    """Boxes that show the same object, each with the mean of its boxes by their scores; at most one box of a view in each."""

    def __init__(self, most: int) -> None:
        self._sums, self._means = np.zeros((most, 4)), np.zeros((most, 4))
        self._scores, self._labels = np.zeros(most), np.zeros(most, np.int64)
        self._members: list[set[int]] = []

    def add(self, box: Floats, score: float, label: int, view: int) -> None:
        """Put a box into the group that it overlaps most, or into a new one."""
        place = self._nearest(box, label, view)
        if place is None:
            place = len(self._members)
            self._members.append(set())
            self._labels[place] = label
        self._members[place].add(view)
        self._sums[place] += score * box
        self._scores[place] += score
        self._means[place] = self._sums[place] / max(self._scores[place], 1e-12)

    def _nearest(self, box: Floats, label: int, view: int) -> int | None:
        count = len(self._members)
        found = np.where(self._labels[:count] == label, overlaps(box[None], self._means[:count])[0], 0.0)
        for place in np.argsort(-found, kind="mergesort"):
            if found[place] < SAME:
                return None
            if view not in self._members[place]:
                return int(place)
        return None

    def all(self) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Mean boxes [N, 4], sums of scores [N], labels [N]."""
        count = len(self._members)
        return self._means[:count], self._scores[:count], self._labels[:count]
