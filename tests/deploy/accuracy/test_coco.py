import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deploy.accuracy import coco
from deploy.comparison import metrics
from deploy.contract import Accuracy
from deploy.prediction import masks

TWELVE = [name for name in Accuracy.model_fields if name.startswith("ma")]
IDS = [7 * i + 3 for i in range(80)]  # with gaps
CLASSES = [f"class {i}" for i in range(80)]


def random_case(seed: int, num_images: int, num_classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth with crowds, empty images and all sizes; detections near it and far from it, with tied scores."""
    random = np.random.default_rng(seed)
    images = [{"id": 10 + 3 * i, "width": 640, "height": 480} for i in range(num_images)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images:
        for _ in range(0 if random.random() < 0.2 else int(random.integers(1, 12))):
            x, y = random.uniform(0, 400, 2)
            wide, high = np.exp(random.uniform(1.5, 5.4, 2))
            category = IDS[int(random.integers(num_classes))]
            box = [float(x), float(y), float(wide), float(high)]
            identity = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category}
            annotations.append({**identity, "bbox": box, "area": 0.8 * box[2] * box[3], "iscrowd": int(random.random() < 0.1)})
            for _ in range(int(random.integers(0, 4))):
                near = np.array(box) + random.normal(0, 0.08, 4) * [wide, high, wide, high]
                results.append(detection(image["id"], category, near, random))
        for _ in range(int(random.integers(0, 150)) if random.random() < 0.3 else 3):  # above 100 in some images
            far = np.concatenate([random.uniform(0, 400, 2), np.exp(random.uniform(1.5, 5.4, 2))])
            results.append(detection(image["id"], IDS[int(random.integers(num_classes))], far, random))
    categories = [{"id": i, "name": name} for i, name in zip(IDS, CLASSES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def detection(image_id: int, category_id: int, box: Any, random: np.random.Generator) -> dict[str, Any]:
    score = float(np.round(random.random(), 2))  # rounded, so that scores tie
    return {"image_id": image_id, "category_id": category_id, "bbox": [float(v) for v in np.abs(box)], "score": score}


def reference(truth: dict[str, Any], results: list[dict[str, Any]], kind: str = "bbox") -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = json.loads(json.dumps(truth | {"info": {}}))
        gt.createIndex()
        judge = COCOeval(gt, gt.loadRes(json.loads(json.dumps(results))), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def defined_mean(values: Any) -> float | None:
    values = values[values > -1]
    return float(values.mean()) if values.size else None


@pytest.mark.parametrize(("seed", "num_images", "num_classes"), [(0, 40, 3), (1, 40, 80), (2, 120, 10), (4, 1, 1)])
def test_every_number_equals_pycocotools(seed: int, num_images: int, num_classes: int) -> None:
    truth, results = random_case(seed, num_images, num_classes)
    judge = reference(truth, results)
    accuracy, curves = coco.evaluate(truth, results, "val", CLASSES)
    for name, expected in zip(TWELVE, judge.stats, strict=True):
        measured = getattr(accuracy, name)
        assert (measured is None) == (expected == -1), name
        assert measured is None or abs(measured - expected) < 1e-9, name
    for column, name in enumerate(CLASSES):
        expected = defined_mean(judge.eval["precision"][:, :, column, 0, 2])
        assert accuracy.per_class[name] == (None if expected is None else pytest.approx(expected, abs=1e-9)), name
    at_half = judge.eval["precision"][0, :, :, 0, 2]
    assert curves["iou_50"]["overall"] == pytest.approx([defined_mean(row) for row in at_half], abs=1e-6)
    assert len(curves["recall"]) == len(curves["mean"]["overall"]) == 101
    assert accuracy.num_images == num_images
    assert accuracy.split == "val"


def test_an_annotation_with_id_0_counts_as_any_other() -> None:
    truth, results = random_case(5, 30, 3)
    expected = coco.evaluate(truth, results, "val", CLASSES)
    for annotation in truth["annotations"]:
        annotation["id"] -= 1
    assert coco.evaluate(truth, results, "val", CLASSES) == expected


def test_no_detections_at_all_give_zero_and_undefined_stays_null() -> None:
    truth, _ = random_case(0, 5, 2)
    accuracy, curves = coco.evaluate(truth, [], "val", CLASSES)
    assert accuracy.map == accuracy.map_50 == accuracy.mar_100 == 0
    assert accuracy.per_class["class 5"] is None
    assert curves["mean"]["per_class"]["class 5"] is None
    assert curves["mean"]["overall"] == [0.0] * 101


def test_without_objects_nothing_is_defined() -> None:
    truth, results = random_case(0, 5, 2)
    truth["annotations"] = []
    accuracy, curves = coco.evaluate(truth, results, "val", CLASSES)
    assert accuracy.map is accuracy.mar_1 is accuracy.map_large is None
    assert curves["iou_50"]["overall"] is None
    assert json.loads(json.dumps(curves, allow_nan=False)) == curves


def test_perfect_detections_score_one_and_ground_truth_is_left_as_it_was() -> None:
    truth, _ = random_case(0, 10, 3)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    results = [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 1.0} for a in truth["annotations"]]
    before = json.dumps([truth, results])
    assert coco.evaluate(truth, results, "val", CLASSES)[0].map == pytest.approx(1)
    assert json.dumps([truth, results]) == before


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    truth, results = random_case(0, 5, 2)
    coco.evaluate(truth, results, "val", CLASSES)
    assert capfd.readouterr() == ("", "")


def test_a_class_that_the_ground_truth_does_not_have_is_null() -> None:
    truth, results = random_case(0, 5, 2)
    accuracy, _ = coco.evaluate(truth, results, "val", ["class 0", "unicorn"])
    assert list(accuracy.per_class) == ["class 0", "unicorn"]
    assert accuracy.per_class["unicorn"] is None


def random_masks(seed: int, num_images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Discs as polygons, codes and counts, some without a mask; detections are discs near them or far, of another size than their boxes."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :128]

    def disc(box: NDArray[np.float64]) -> NDArray[np.bool_]:
        middle, radius = box[:2] + box[2:] / 2, np.maximum(box[2:] / 2, 1)
        inside: NDArray[np.bool_] = ((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2 <= 1
        return inside

    truth: dict[str, Any] = {"images": [{"id": 3 * i, "width": 128, "height": 96} for i in range(num_images)], "annotations": []}
    truth["categories"] = [{"id": i, "name": name} for i, name in zip(IDS[:3], CLASSES, strict=False)]
    results: list[dict[str, Any]] = []
    for image in truth["images"]:
        for number in range(int(random.integers(0, 8))):
            box = np.concatenate([random.uniform(0, 60, 2), np.exp(random.uniform(1, 4.5, 2))])
            category = IDS[int(random.integers(3))]
            inside = disc(box)
            crowd = number == 5
            code: Any = masks.encode(inside, (96, 128))
            if number % 3 == 1:
                code = {"size": [96, 128], "counts": [int(box[0]) * 96, 96 * 5, 96 * (123 - int(box[0]))]}
            if number % 3 == 2 and not crowd:
                code = [[float(v) for v in (box[0], box[1], box[0] + box[2], box[1], box[0], box[1] + box[3])]]
            row = {"id": len(truth["annotations"]) + 1, "image_id": image["id"], "category_id": category, "bbox": box.tolist()}
            truth["annotations"].append({**row, "area": float(inside.sum()) + 0.5, "iscrowd": int(crowd), "segmentation": code})
            for spread in (0.05, 0.3):
                near = np.abs(box + random.normal(0, spread, 4) * np.tile(box[2:], 2))
                found = detection(image["id"], category, near, random)
                results.append({**found, "segmentation": masks.encode(disc(near), (96, 128))})
    return truth, results


def without_boxes(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """pycocotools takes a detection's size from its box where it has one."""
    return [{key: value for key, value in result.items() if key != "bbox"} for result in results]


@pytest.mark.parametrize(("seed", "num_images"), [(0, 30), (1, 60), (2, 2)])
def test_every_number_of_masks_equals_pycocotools(seed: int, num_images: int) -> None:
    truth, results = random_masks(seed, num_images)
    judge = reference(truth, without_boxes(results), "segm")
    before = json.dumps([truth, results])
    accuracy, _ = coco.evaluate(truth, results, "val", CLASSES[:3], masks=True)
    assert accuracy.segmentation is not None
    for name, expected in zip(TWELVE, judge.stats, strict=True):
        measured = getattr(accuracy.segmentation, name)
        assert (measured is None) == (expected == -1), name
        assert measured is None or abs(measured - expected) < 1e-9, name
    boxes = reference(truth, [{k: v for k, v in result.items() if k != "segmentation"} for result in results])
    assert accuracy.map == pytest.approx(boxes.stats[0], abs=1e-9)
    assert json.dumps([truth, results]) == before


def test_masks_are_judged_only_where_asked_for_and_known() -> None:
    truth, results = random_masks(0, 5)
    assert coco.evaluate(truth, results, "val", CLASSES[:3])[0].segmentation is None
    nothing = coco.evaluate(truth, [], "val", CLASSES[:3], masks=True)[0].segmentation
    assert nothing is not None
    assert nothing.map == 0
    for annotation in truth["annotations"]:
        del annotation["segmentation"]
    assert coco.evaluate(truth, results, "val", CLASSES[:3], masks=True)[0].segmentation is None


def test_an_object_without_a_mask_has_its_box_for_one() -> None:
    truth, _ = random_masks(0, 1)
    row = {"id": 1, "image_id": 0, "category_id": IDS[0], "iscrowd": 0}
    corner = {"size": [96, 128], "counts": [0, 10, 96 * 128 - 10]}
    truth["annotations"] = [
        {**row, "bbox": [10, 20, 30, 40], "area": 1200},
        {**row, "id": 2, "bbox": [0, 0, 1, 10], "segmentation": corner},
    ]
    results = [
        {
            "image_id": 0,
            "category_id": IDS[0],
            "bbox": [0, 0, 1, 1],
            "score": 0.9,
            "segmentation": masks.encode(np.ones((40, 30), bool), (96, 128), 10, 20),
        },
        {
            "image_id": 0,
            "category_id": IDS[0],
            "bbox": [0, 0, 1, 10],
            "score": 0.9,
            "segmentation": masks.encode(np.ones((10, 1), bool), (96, 128)),
        },
    ]
    found = coco.evaluate(truth, results, "val", CLASSES[:1], masks=True)[0].segmentation
    assert found is not None
    assert found.map == pytest.approx(1)


def test_gates_find_the_numbers_of_masks() -> None:
    truth, results = random_masks(0, 10)
    accuracy, _ = coco.evaluate(truth, results, "val", CLASSES[:3], masks=True)
    assert accuracy.segmentation is not None
    assert metrics.value("mask_map", metrics.Figures(accuracy)) == accuracy.segmentation.map
    assert metrics.value("mask_map_75", metrics.Figures(accuracy)) == accuracy.segmentation.map_75
    assert metrics.value("mask_map_50", metrics.Figures(accuracy.model_copy(update={"segmentation": None}))) is None
    assert metrics.value("mask_map_50", metrics.Figures(None)) is None
    assert Accuracy.model_validate_json(accuracy.model_dump_json()) == accuracy
