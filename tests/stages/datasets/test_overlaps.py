"""Overlaps of objects of different classes, by hand and against torchvision's nms on all boxes."""

from typing import Any

import pytest
import torch
from torchvision.ops import nms

from stages.datasets.cleaning.overlaps import overlaps


def coco(*rows: tuple[int, int, Any], **last: Any) -> dict[str, Any]:
    """Objects as image, category, bbox; `last` changes the last one."""
    found: list[dict[str, Any]] = [{"image_id": image, "category_id": category, "bbox": box} for image, category, box in rows]
    found[-1] |= last
    return {"images": [], "annotations": found, "categories": []}


SHIFTED = [1, 0, 10, 10]
"""Shares 90 of 110 square px, 0.818, with the box at 0, 0 of 10 x 10 px."""


@pytest.mark.parametrize(
    ("image", "category", "threshold", "expected"),
    [(1, 2, 0.81, True), (1, 2, 0.82, False), (1, 1, 0.1, False), (2, 2, 0.1, False), (1, 2, 90 / 110, False)],
)
def test_by_hand(image: int, category: int, threshold: float, expected: bool) -> None:
    assert overlaps(coco((1, 1, [0, 0, 10, 10]), (image, category, SHIFTED)), threshold) is expected


@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"bbox": [1, 0, 0, 10]}, {"bbox": None}])
def test_what_does_not_count(change: dict[str, Any]) -> None:
    assert not overlaps(coco((1, 1, [0, 0, 10, 10]), (1, 2, SHIFTED), **change), 0.5)


def test_none() -> None:
    assert not overlaps({"images": [], "annotations": [], "categories": []}, 0.5)


def test_suppression_across_classes_loses_an_object_exactly_if_they_overlap() -> None:
    """Objects of one class each, so that torchvision's nms on all boxes suppresses only across classes."""
    answers = set()
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        corner, size = torch.rand(6, 2, generator=generator) * 60, torch.rand(6, 2, generator=generator) * 30 + 10
        kept = nms(torch.cat((corner, corner + size), dim=1), torch.rand(6, generator=generator), 0.3)
        boxes = torch.cat((corner, size), dim=1).double().tolist()
        found = overlaps(coco(*((1, category, box) for category, box in enumerate(boxes))), 0.3)
        assert found == (len(kept) < 6)
        answers.add(found)
    assert answers == {True, False}
