"""From one image's raw outputs to candidates, in NumPy: the decisions of the graphs that decode inside, ties included.

What to do is in the contract, so that any program that reads manifest.json can do the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deploy.contract import BoxCode, HeadLevel, HostDecoding, Preprocessing

Floats = NDArray[np.float32]
_NARROW_FROM = 4
"""As in the graph: levels with at least this many times the candidates are narrowed down to rows first, which orders equal scores."""
_MARGIN, _NEAR_ONE = 0.01, 0.99
"""How far below the threshold a logit must be to be left out; above this probability, steps of float32 would be as wide as the margin."""


@dataclass(frozen=True)
class DecodedBoxes:
    """Boxes [N, 4] in px of the network's input, scores [N] above 0, labels [N]; by level, each by descending score."""

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int64]


class Decoder:
    """Decodes images of one size; the anchors are computed once."""

    def __init__(self, decoding: HostDecoding, size: Preprocessing) -> None:
        self._decoding = decoding
        self._limit = np.array([size.width, size.height] * 2, np.float32)
        self._anchors = [anchors(level) for level in decoding.levels]
        starts = np.cumsum([0, *map(len, self._anchors)]).tolist()
        self._ranges = [slice(*ends) for ends in pairwise(starts)]

    def candidates(self, raw: Mapping[str, Floats]) -> DecodedBoxes:
        """The candidates of one image, from its raw outputs [N, ...] by name."""
        parts = [
            self._level({name: value[rows] for name, value in raw.items()}, own)
            for rows, own in zip(self._ranges, self._anchors, strict=True)
        ]
        boxes, scores, labels = (np.concatenate([part[index] for part in parts]) for index in range(3))
        if self._decoding.scores != "mean":
            extent = np.clip(boxes, 0, self._limit)
            scores = np.where((extent[:, 2:] - extent[:, :2]).min(axis=1) > 0, scores, np.float32(0))
        kept = scores > 0
        boxes = boxes if self._decoding.scores == "likeliest" else self.clipped(boxes)
        return DecodedBoxes(boxes[kept], scores[kept], labels[kept])

    def clipped(self, boxes: Floats) -> Floats:
        """Boxes [N, 4] within the image."""
        found: Floats = np.minimum(np.maximum(boxes, np.float32(0)), self._limit)
        return found

    def _level(self, raw: Mapping[str, Floats], own: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
        rule = self._decoding
        logits, quality = raw["class_logits"], raw.get("quality")
        if rule.scores == "likeliest":
            rows, labels, scores = _likeliest(logits, quality, rule)
        else:
            rows, labels, scores = _pairs(logits, quality if rule.scores == "mean" else None, rule)
            if rule.scores == "class_first" and quality is not None:
                scores = scores * sigmoid(quality[rows, 0])
        numbers = raw["box_deltas"][rows] if "box_deltas" in raw else _means(raw["box_distributions"][rows])
        return decode(rule.code, numbers, own[rows]), scores, labels


def _pairs(logits: Floats, quality: Floats | None, rule: HostDecoding) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Rows, classes and scores of the best pairs of a row and a class, those above the threshold."""
    rows = np.arange(len(logits))
    if len(logits) >= _NARROW_FROM * rule.candidates:
        strongest = logits.max(axis=1)
        likely = _likely(strongest, rule)
        rows = likely[_best(_scores(strongest[likely], None if quality is None else quality[likely, 0]), rule)]
    num_classes, pairs = logits.shape[1], logits[rows].ravel()
    likely = _likely(pairs, rule)
    scores = _scores(pairs[likely], None if quality is None else quality[rows[likely // num_classes], 0])
    best = _best(scores, rule)
    chosen = likely[best]
    return rows[chosen // num_classes], chosen % num_classes, scores[best]


def _likeliest(logits: Floats, quality: Floats | None, rule: HostDecoding) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """As `_pairs`, but of each row only the likeliest class, with the quality in the score."""
    strongest = logits.max(axis=1)
    likely = _likely(strongest, rule)
    scores = sigmoid(strongest[likely])
    scores = scores if quality is None else scores * sigmoid(quality[likely, 0])
    best = _best(scores, rule)
    rows = likely[best]
    return rows, logits[rows].argmax(axis=1), scores[best]


def _likely(logits: Floats, rule: HostDecoding) -> NDArray[np.int64]:
    """The indices of all logits whose score may be above the threshold, and a few more: most are far below, and cost no exponential."""
    least = min(rule.score_threshold**2 if rule.scores == "mean" else rule.score_threshold, _NEAR_ONE)
    floor = np.float32(np.log(least / (1 - least)) - _MARGIN) if least > 0 else np.float32(-np.inf)
    return np.flatnonzero(~(logits < floor))


def _best(scores: Floats, rule: HostDecoding) -> NDArray[np.int64]:
    """The indices of the highest scores above the threshold; of equal ones the lower index comes first."""
    above = np.flatnonzero(~(scores <= rule.score_threshold))  # NaN stays, to be refused
    if len(above) > rule.candidates:
        found = scores[above]
        above = above[~(found < np.partition(found, -rule.candidates)[-rule.candidates])]  # ties with the last one stay
    best: NDArray[np.int64] = above[np.argsort(-scores[above], kind="stable")][: rule.candidates]
    return best


def _scores(logits: Floats, quality: Floats | None) -> Floats:
    scores = sigmoid(logits)
    found: Floats = scores if quality is None else np.sqrt(scores * sigmoid(quality))
    return found


def sigmoid(values: Floats) -> Floats:
    """Probabilities, without overflow."""
    small = np.exp(-np.abs(values))
    found: Floats = np.where(values >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    return found


def _means(distributions: Floats) -> Floats:
    """The mean [N, 4] of distributions [N, 4, bins] of logits over whole numbers from 0."""
    shares = np.exp(distributions - distributions.max(axis=2, keepdims=True))
    found: Floats = (shares / shares.sum(axis=2, keepdims=True)) @ np.arange(distributions.shape[2], dtype=np.float32)
    return found


def anchors(level: HeadLevel) -> Floats:
    """A level's anchors [N, 4], in the order of its rows."""
    x = np.arange(level.width, dtype=np.float32) * np.float32(level.step[0])
    y = np.arange(level.height, dtype=np.float32) * np.float32(level.step[1])
    across, down = np.meshgrid(x, y)
    moves = np.stack([across, down, across, down], axis=2)[:, :, None]
    return (moves + np.array(level.anchors, np.float32)).reshape(-1, 4)


def decode(code: BoxCode, numbers: Floats, own: Floats) -> Floats:
    """Boxes [N, 4] from the numbers [N, 4] that are predicted for anchors [N, 4]; not clipped."""
    values = numbers[:, code.order] * np.array(code.scale, np.float32)
    extent = own[:, 2:] - own[:, :2]
    center = own[:, :2] + np.float32(0.5) * extent
    if code.kind == "sides":
        return np.tile(center, 2) + values * np.tile(extent, 2)
    middle = values[:, :2] * extent + center
    growth = values[:, 2:] if code.least is None and code.most is None else np.clip(values[:, 2:], code.least, code.most)
    with np.errstate(over="ignore"):
        half = np.float32(0.5) * np.exp(growth) * extent
    return np.concatenate([middle - half, middle + half], axis=1)
