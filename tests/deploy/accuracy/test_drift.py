import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from deploy.accuracy.drift import drift, overlaps, pairs


def found(box: tuple[float, float, float, float], score: float = 0.5, image: int = 1, category: int = 1) -> dict[str, object]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def test_what_moved_is_measured_at_the_corners() -> None:
    before = [found((10, 10, 20, 20), 0.9), found((50, 50, 10, 10), 0.4)]
    after = [found((50, 50, 10, 11), 0.5), found((11, 10, 20, 22), 0.8)]
    moved = drift(before, after)
    assert moved.matched == 1
    assert (moved.box_mean_px, moved.box_max_px) == (1.5, 2)
    assert (moved.score_mean, moved.score_max) == pytest.approx((0.1, 0.1))


def test_other_images_and_classes_are_others() -> None:
    before = [found((10, 10, 20, 20))]
    for other in (found((10, 10, 20, 20), image=2), found((10, 10, 20, 20), category=2), found((40, 40, 20, 20))):
        assert drift(before, [other]).model_dump() == {
            "matched": 0.0,
            "box_mean_px": None,
            "box_max_px": None,
            "score_mean": None,
            "score_max": None,
        }


def test_each_finds_one_partner_at_most() -> None:
    twice = [found((10, 10, 20, 20)), found((10, 10, 20, 21))]
    assert drift(twice, twice[:1]).matched == 0.5
    assert drift(twice, twice).box_max_px == 0


def test_nothing_is_nothing() -> None:
    assert (drift([], []).matched, drift([], [found((0, 0, 1, 1))]).matched) == (1, 0)


def test_overlaps_are_torchvisions() -> None:
    random = np.random.default_rng(0)
    low = random.uniform(0, 50, (2, 40, 2))
    boxes = np.concatenate((low, low + random.uniform(0, 30, (2, 40, 2))), axis=2)
    assert overlaps(boxes[0], boxes[1]) == pytest.approx(box_iou(*torch.from_numpy(boxes)).numpy())


def test_boxes_of_no_area_overlap_nothing() -> None:
    point = np.array([[5.0, 5.0, 5.0, 5.0]])
    assert overlaps(point, point) == 0
    assert pairs(overlaps(point, point)) == []
