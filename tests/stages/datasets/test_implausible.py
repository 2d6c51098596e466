"""Boxes that nobody draws: below a px or two, or the same in almost every image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noted import counts, examples
from PIL import Image

from deploy.errors import DataError
from stages.artifacts import Dataset
from stages.config import DataConfig
from stages.datasets.cleaning import implausible
from stages.datasets.cleaning.clean import read_box
from stages.notes import Note, Notes
from stages.prepare import prepare

Boxes = Sequence[Sequence[float]]


def found(images: Sequence[Boxes], sizes: Sequence[tuple[int, int]] | None = None) -> list[Note]:
    """The notes on images of 100 x 100 px, or of these sizes, each with its boxes."""
    sides = sizes or [(100, 100)] * len(images)
    rows = [{"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(sides)]
    boxes = [
        {"id": 10 * i + j, "image_id": i, "category_id": 1, "bbox": list(b)} for i, own in enumerate(images) for j, b in enumerate(own)
    ]
    notes = Notes()
    implausible.add(notes, "train", rows, boxes)
    return list(notes)


def spread(count: int) -> list[Boxes]:
    """Images with one box each, all different."""
    return [[(3.0 * i, 5, 20, 10)] for i in range(count)]


class TestTiny:
    def test_fractions_read_as_px_are_counted(self) -> None:
        (note,) = found([[(0.5, 0.5, 0.25, 0.4), (0.1, 0.1, 0.9, 0.9)], [(0.2, 0.2, 0.3, 0.3)], [(4, 4, 30, 30)]])
        assert (note.kind, note.action, note.count) == ("box below 2 px, perhaps a fraction", "assumed", 3)
        assert note.examples[0] == "annotation 0 of 0.png, used as [0.5, 0.5, 0.25, 0.4] px"
        assert note.images == ("0.png", "1.png")

    @pytest.mark.parametrize("box", [(5, 5, 2, 1), (5, 5, 1, 2), (5, 5, 40, 0.5)], ids=str)
    def test_a_box_of_2_px_on_one_side_is_not(self, box: Sequence[float]) -> None:
        assert found([[box]]) == []

    def test_half_of_all_boxes_are_not_most(self) -> None:
        assert found([[(5, 5, 1, 1), (5, 5, 9, 9)]]) == []
        assert found([[(5, 5, 1, 1), (5, 5, 9, 9), (8, 8, 1, 1)]])[0].count == 2


class TestCopied:
    def test_the_same_boxes_in_ten_images_are_counted(self) -> None:
        (note,) = found([[(10, 10, 20, 20), (50, 50, 8, 8)]] * 9 + [[(50, 50, 8, 8), (10, 10, 20, 20)]])
        assert (note.kind, note.action, note.unit, note.count) == ("the same boxes as in almost all images", "assumed", "images", 10)
        assert note.examples[0] == "0.png, like 10 of 10 images with objects; were labels copied?"

    def test_nine_images_may_be_a_coincidence(self) -> None:
        assert found([[(10, 10, 20, 20)]] * 9) == []

    def test_images_without_objects_do_not_count(self) -> None:
        assert found([*[[(10, 10, 20, 20)]] * 9, [], [], []]) == []
        assert found([*[[(10, 10, 20, 20)]] * 10, *[[]] * 30])[0].count == 10

    def test_nine_tenths_are_almost_all(self) -> None:
        assert found([*[[(10, 10, 20, 20)]] * 18, *spread(2)])[0].count == 18
        assert found([*[[(10, 10, 20, 20)]] * 17, *spread(3)]) == []

    def test_fractions_that_are_the_same_in_images_of_different_sizes(self) -> None:
        sizes = [(100 + 10 * i, 50 + 7 * i) for i in range(10)]
        (note,) = found([[(w * 0.2, h * 0.3, w * 0.5, h * 0.25)] for w, h in sizes], sizes)
        assert note.count == 10

    def test_px_that_are_the_same_in_images_of_different_sizes(self) -> None:
        (note,) = found([[(10, 10, 20, 20)]] * 10, [(100 + 10 * i, 80) for i in range(10)])
        assert note.count == 10

    def test_one_fixed_object_among_others_is_fine(self) -> None:
        assert found([[(70, 70, 20, 20), *own] for own in spread(12)]) == []


def prepared(root: Path, boxes: Sequence[Sequence[float]], stated: tuple[int, int] = (100, 100), **options: Any) -> Dataset:
    """A COCO folder with one box per training image, prepared."""
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    for split, own in (("train", boxes), ("val", [(5, 6, 30, 20)])):
        rows = [{"id": i, "file_name": f"{split}{i}.png", "width": stated[0], "height": stated[1]} for i in range(len(own))]
        for row in rows:
            Image.fromarray(random.integers(0, 255, (100, 100, 3), np.uint8)).save(root / "images" / str(row["file_name"]))
        found = [{"id": i, "image_id": i, "category_id": 1, "bbox": list(box)} for i, box in enumerate(own)]
        file = root / f"annotations/instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"images": rows, "annotations": found, "categories": [{"id": 1, "name": "cat"}]}))
    out = root / "out"
    out.mkdir()
    return prepare(out, DataConfig.model_validate({"dataset": "coco", "root": str(root), **options}))


def test_copied_labels_are_refused_and_used_if_told_to_go_on(tmp_path: Path) -> None:
    boxes = [(10, 10, 20, 20)] * 12
    with pytest.raises(DataError, match=r"^train: 12 of 12 images are left out or assumed .*set data.max_doubtful to 1 to go on$"):
        prepared(tmp_path / "one", boxes)
    dataset = prepared(tmp_path / "two", boxes, max_doubtful=1)
    assert counts(dataset.facts) == {"the same boxes as in almost all images": 12}
    assert examples(dataset.facts, "the same boxes as in almost all images")[0].startswith("train0.png, like 12 of 12 images")
    coco = json.loads(dataset.annotations("train").read_text())
    assert [read_box(row["bbox"]) for row in coco["annotations"]] == boxes


def test_small_boxes_of_a_few_px_are_refused_too(tmp_path: Path) -> None:
    boxes = [(10.5 + i, 20.5, 1.5, 1.25) for i in range(4)]
    with pytest.raises(DataError, match=r"^train: 4 of 4 boxes are left out or assumed \(box below 2 px.*max_doubtful to 1 to go on$"):
        prepared(tmp_path, boxes)
