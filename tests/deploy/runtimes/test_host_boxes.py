"""Candidates and suppression on the host, exactly as a plain loop over all scores and boxes decides, whatever is left out to save time."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.contract import BoxCode, HeadLevel, HostDecoding, Preprocessing
from deploy.runtimes.host_decoding.boxes import Decoder, sigmoid
from deploy.runtimes.host_decoding.suppression import suppress

Floats = NDArray[np.float32]
SIZE = Preprocessing(height=64, width=64)
LEVELS = (
    HeadLevel(height=16, width=16, step=(4, 4), anchors=((-2, -2, 6, 6), (-4, -4, 8, 8))),
    HeadLevel(height=4, width=4, step=(16, 16), anchors=((-8, -8, 24, 24),)),
)
ROWS = (512, 16)


def decoding(scores: str, threshold: float, candidates: int) -> HostDecoding:
    limits = {"max_detections": 20, "candidates": candidates, "score_threshold": threshold, "iou_threshold": 0.5}
    own = {"outputs": ("class_logits", "box_deltas", "quality"), "levels": LEVELS, "code": BoxCode(kind="center"), "scores": scores}
    return HostDecoding.model_validate({**own, **limits})


def heads(kind: str) -> dict[str, Floats]:
    random = np.random.default_rng(3)
    raw = {
        name: random.normal(size=(sum(ROWS), last)).astype(np.float32)
        for name, last in (("class_logits", 5), ("box_deltas", 4), ("quality", 1))
    }
    if kind == "ties":
        raw = {name: np.round(value) for name, value in raw.items()}
    if kind == "near":  # around the thresholds 0.05 and 0.3, within less than the margin
        raw["class_logits"] = (np.log(np.float32(0.3 / 0.7)) + raw["class_logits"] * np.float32(1e-3)).astype(np.float32)
        raw["quality"][:] = 30
    if kind == "extreme":
        raw["class_logits"] = (raw["class_logits"] * 60).astype(np.float32)
    return raw


def plain_pairs(logits: Floats, quality: Floats, rule: HostDecoding) -> list[tuple[int, int, np.float32]]:
    """Row, class and score of a level's candidates, from every score there is."""
    classes = sigmoid(logits)
    scores = np.sqrt(classes * sigmoid(quality)) if rule.scores == "mean" else classes
    rows = np.arange(len(logits))
    if rule.scores == "likeliest":
        best = logits.argmax(axis=1)
        ranked = classes[rows, best] * sigmoid(quality)[:, 0]
        order = [row for row in np.argsort(-ranked, kind="stable") if ranked[row] > np.float32(rule.score_threshold)]
        return [(int(row), int(best[row]), ranked[row]) for row in order[: rule.candidates]]
    if len(rows) >= 4 * rule.candidates:
        most = scores.max(axis=1)
        rows = np.array(
            [row for row in np.argsort(-most, kind="stable") if most[row] > np.float32(rule.score_threshold)][: rule.candidates], np.int64
        )
    flat = scores[rows].ravel()
    order = [pair for pair in np.argsort(-flat, kind="stable") if flat[pair] > np.float32(rule.score_threshold)][: rule.candidates]
    found = [(int(rows[pair // 5]), int(pair % 5), flat[pair]) for pair in order]
    return [(row, label, score * sigmoid(quality)[row, 0] if rule.scores == "class_first" else score) for row, label, score in found]


@pytest.mark.parametrize("kind", ["spread", "ties", "near", "extreme"])
@pytest.mark.parametrize("candidates", [10, 100, 400])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("scores", ["mean", "class_first", "likeliest"])
def test_candidates_are_those_of_all_scores_in_the_same_order(scores: str, threshold: float, candidates: int, kind: str) -> None:
    rule, raw = decoding(scores, threshold, candidates), heads(kind)
    # no move and a growth of 1: no box is without area
    raw["box_deltas"] = np.zeros_like(raw["box_deltas"])
    found = Decoder(rule, SIZE).candidates(raw)
    expected = []
    for start, rows in ((0, ROWS[0]), (ROWS[0], ROWS[1])):
        level = slice(start, start + rows)
        expected += [one for one in plain_pairs(raw["class_logits"][level], raw["quality"][level], rule) if one[2] > 0]
    assert found.labels.tolist() == [label for _, label, _ in expected]
    assert found.scores.tolist() == [float(score) for _, _, score in expected]


def plain_suppression(boxes: Floats, scores: Floats, labels: NDArray[np.int64] | None, threshold: float) -> Iterator[int]:
    """One box at a time."""
    kept: list[int] = []
    for one in np.argsort(-scores, kind="stable").tolist():
        if not any((labels is None or labels[one] == labels[other]) and overlap(boxes[one], boxes[other]) > threshold for other in kept):
            kept.append(one)
            yield one


def overlap(one: Floats, other: Floats) -> np.float32:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.maximum(high - low, np.float32(0)))
    areas = [area if (area := np.prod(box[2:] - box[:2])) != 0 else np.float32(1) for box in (one, other)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.float32(shared / (areas[0] + areas[1] - shared))


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 500])
@pytest.mark.parametrize("agnostic", [False, True])
def test_suppression_is_that_of_one_box_at_a_time(count: int, agnostic: bool) -> None:
    random = np.random.default_rng(count)
    corners = random.integers(0, 40, size=(count, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + random.integers(-2, 16, size=(count, 2))], axis=1).astype(np.float32)
    scores = (random.integers(1, 40, size=count) / np.float32(40)).astype(np.float32)  # many are equal
    labels = None if agnostic else random.integers(0, 3, size=count)
    expected = list(plain_suppression(boxes, scores, labels, 0.4))
    for most in (1, 7, 100, 1000):
        assert suppress(boxes, scores, labels, 0.4, most).tolist() == expected[:most]
