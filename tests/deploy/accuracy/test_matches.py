"""COCO's matches of detections and objects, of which mAP can be drawn again."""

from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scene_samples import scene

from deploy.accuracy.matches import match

AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}


def reference(truth: dict[str, Any], found: list[dict[str, Any]]) -> Any:
    """pycocotools' precision [IoU, recall, class, area, limit]."""
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    judge = COCOeval(coco, coco.loadRes(found), "bbox")
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"]


@pytest.mark.parametrize("seed", range(5))
def test_matches_give_cocos_precision(seed: int) -> None:
    truth, found = scene(seed)
    precision = reference(truth, found)
    for area, column in AREAS.items():
        made = match(truth, found, area=area)
        for thresholds in (slice(None), slice(0, 1), slice(5, 6)):
            table = precision[thresholds, :, :, column, 2]
            assert made.mean_precision(None, thresholds) == pytest.approx(table[table > -1].mean(), abs=1e-9)
    one = match(truth, found, classes=["class 1"]).mean_precision()
    assert one == pytest.approx(precision[:, :, 1, 0, 2].mean(), abs=1e-9)


def test_an_image_of_weight_three_is_three_images() -> None:
    truth, found = scene(7, 12, crowd=False)
    weights = np.array([0, 1, 3, 0, 2, 1, 1, 0, 1, 2, 1, 0], np.float64)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for index, count in enumerate(weights.astype(int)):
        old = truth["images"][index]["id"]
        for _ in range(count):
            new = len(images) + 1
            images.append({**truth["images"][index], "id": new})
            objects += [{**one, "image_id": new, "id": len(objects) + 1 + i} for i, one in enumerate(_of(truth["annotations"], old))]
            detections += [{**one, "image_id": new} for one in _of(found, old)]
    copied = match({**truth, "images": images, "annotations": objects}, detections).mean_precision()
    assert match(truth, found).mean_precision(weights) == pytest.approx(copied, abs=1e-9)


def _of(rows: list[dict[str, Any]], image: int) -> list[dict[str, Any]]:
    return [one for one in rows if one["image_id"] == image]


def test_without_objects_there_is_no_map_and_without_detections_it_is_zero() -> None:
    truth, found = scene(1)
    assert match({**truth, "annotations": []}, found).mean_precision() is None
    assert match(truth, []).mean_precision() == 0
