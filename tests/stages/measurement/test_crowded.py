"""Objects beyond the number of detections that a graph keeps of an image."""

import json
from pathlib import Path
from typing import Any

import artifact_samples

from stages.artifacts import TABLES, Dataset
from stages.datasets.tables import table
from stages.measurement.crowded import crowded, crowded_source, noted


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
