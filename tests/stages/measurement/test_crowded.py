"""Objects beyond the number of detections that a graph keeps of an image."""

import json
from pathlib import Path
from typing import Any

import artifact_samples
import pytest

from deploy.accuracy.coco import evaluate
from deploy.accuracy.matches import MAX_DETECTIONS
from stages.artifacts import TABLES, Dataset
from stages.datasets.tables import table
from stages.measurement.crowded import BEYOND, UNCOUNTED, crowded, crowded_source, noted


def data(root: Path, counts: dict[str, list[int]]) -> Dataset:
    """Splits whose images have these numbers of objects, and a crowd each."""
    made = artifact_samples.dataset(root)
    for split, numbers in counts.items():
        file = made.annotations(split)
        truth: dict[str, Any] = json.loads(file.read_text())
        category = truth["categories"][0]["id"]
        own = {"category_id": category, "bbox": [0, 0, 8, 8], "area": 64}
        places = [(image, crowd) for image, number in enumerate(numbers, 1) for crowd in [0] * number + [1]]
        truth["annotations"] = [{"id": n, "image_id": image, "iscrowd": crowd, **own} for n, (image, crowd) in enumerate(places, 1)]
        file.write_text(json.dumps(truth))
        table.write(root / TABLES / split, truth, {one["id"]: label for label, one in enumerate(truth["categories"])})
    return made


def test_each_split_says_how_many_objects_are_beyond_and_where_the_most_are(tmp_path: Path) -> None:
    made = data(tmp_path, {"train": [0, 4, 2, 5, 0, 3], "val": [3, 3, 0, 1, 0, 0]})
    (note,) = crowded(made, 3)
    assert (note.split, note.count, note.total, note.images) == ("train", 3, 14, ("3.png", "1.png"))
    assert str(note) == (
        "train: left out: objects that no engine can find: 3 of 14 boxes, "
        "first: 3.png has 5, at most 3 are found in an image; see export.max_detections"
    )
    assert [one.split for one in crowded(made, 2)] == ["train", "val"]
    assert crowded(made, 5) == ()
    assert noted(made, 5) == made.facts.notes


def test_a_split_as_it_was_read_says_the_same(tmp_path: Path) -> None:
    made = data(tmp_path, {"train": [0, 4, 2, 5, 0, 3]})
    assert crowded_source("train", json.loads(made.annotations("train").read_text()), 3) == list(crowded(made, 3))


def test_objects_are_counted_that_coco_leaves_out_of_map_although_an_engine_may_find_them(tmp_path: Path) -> None:
    made = data(tmp_path, {"train": [0, 140, 0, 0, 0, 0], "val": [3, 130, 100, 101, 0, 0]})
    (note,) = crowded(made, 150)
    name = made.facts.contract.classes[0]
    assert (note.kind, note.split, note.count, note.total) == ("objects that mAP does not count", "val", 31, 334)
    assert note.examples[0] == f"1.png has 130 of {name}, and COCO's mAP takes the best 100 detections of a class in an image"
    assert note.images == ("1.png", "3.png")
    assert crowded_source("val", json.loads(made.annotations("val").read_text()), 150) == [note]
    assert [one.kind for one in crowded(made, 120)] == [BEYOND.name, BEYOND.name, UNCOUNTED.name]
    assert [one.kind for one in crowded(made, 100)] == [BEYOND.name, BEYOND.name]


def test_coco_counts_a_hundred_of_a_class_in_an_image() -> None:
    boxes = [[12 * n, 0, 8, 8] for n in range(125)]
    truth = {
        "images": [{"id": 1, "width": 1500, "height": 8}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": 64} for n, box in enumerate(boxes, 1)],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    accuracy, _ = evaluate(truth, results, "val", ["cell"])
    assert accuracy.mar_100 == pytest.approx(MAX_DETECTIONS / 125)
    assert accuracy.map == pytest.approx(81 / 101)  # recalls of 0 to 0.8 are reached
