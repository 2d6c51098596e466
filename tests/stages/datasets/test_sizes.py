"""Images whose annotations state a different size from the file's: exact boxes, masks and notes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noted import counts, examples
from PIL import Image

from deploy.errors import DataError
from deploy.prediction import masks
from stages.artifacts import Dataset
from stages.config import DataConfig
from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.pixels import Stored
from stages.datasets.cleaning.sizes import Labeled, read, similar, stated_size
from stages.prepare import prepare


def folder(root: Path, found: tuple[int, int], stated: tuple[Any, Any], boxes: list[list[float]], **more: Any) -> Path:
    """A COCO folder: train has one image per box, of size `found` but annotated as `stated`; val has a sound one."""
    pixels = np.random.default_rng(0).integers(0, 256, (found[1], found[0], 3), dtype=np.uint8)
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for split, size, own in (("train", stated, boxes), ("val", found, [[1, 1, 5, 5]])):
        images = [{"id": i, "file_name": f"{split}{i}.png", "width": size[0], "height": size[1]} for i in range(len(own))]
        rows = [{"id": i, "image_id": i, "category_id": 1, "bbox": box} | (more if split == "train" else {}) for i, box in enumerate(own)]
        for image in images:
            Image.fromarray(pixels).save(root / "images" / str(image["file_name"]))
        coco = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cell"}]}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(coco))
    return root


def prepared(root: Path, **options: Any) -> Dataset:
    """The folder, prepared."""
    out = root / "out"
    out.mkdir()
    return prepare(out, DataConfig.model_validate({"dataset": "coco", "root": str(root), **options}))


def rows(dataset: Dataset) -> list[dict[str, Any]]:
    """The training annotations as they are used."""
    found: list[dict[str, Any]] = json.loads(dataset.annotations("train").read_text())["annotations"]
    return found


class TestResized:
    def test_boxes_areas_and_polygons_are_scaled_by_the_factor(self, tmp_path: Path) -> None:
        polygon = [[80.0, 60.0, 90.0, 60.0, 90.0, 72.0]]
        root = folder(tmp_path, (48, 40), (96, 80), [[80, 60, 10, 12], [80, 60, 10, 12]], area=120, segmentation=polygon)
        dataset = prepared(root)
        assert [row["bbox"] for row in rows(dataset)] == [[40, 30, 5, 6], [40, 30, 5, 6]]
        assert [row["area"] for row in rows(dataset)] == [30, 30]
        assert rows(dataset)[0]["segmentation"] == [[40, 30, 45, 30, 45, 36]]
        (note,) = dataset.facts.notes
        assert str(note) == (
            "train: repaired: image resized after labeling: 2 of 2 images, first: train0.png is 48 x 40 px, annotated as 96 x 80; "
            "boxes and masks scaled by 0.5"
        )
        assert note.images == ("train0.png", "train1.png")

    def test_a_code_of_the_old_size_is_resized(self, tmp_path: Path) -> None:
        code = masks.encode(np.ones((20, 30), bool), (80, 96), 60, 40)
        dataset = prepared(folder(tmp_path, (48, 40), (96, 80), [[60, 40, 30, 20]], segmentation=code))
        mask = masks.decode(rows(dataset)[0]["segmentation"], (40, 48))
        assert mask.sum() == mask[20:30, 30:45].sum() == 150
        assert rows(dataset)[0]["bbox"] == [30, 20, 15, 10]

    @pytest.mark.parametrize("code", [{"size": 5, "counts": "x"}, {"size": [80], "counts": [1]}, {"size": None, "counts": "x"}], ids=str)
    def test_a_code_without_a_size_is_left_out(self, tmp_path: Path, code: Any) -> None:
        dataset = prepared(folder(tmp_path, (48, 40), (96, 80), [[60, 40, 30, 20]], segmentation=code), max_doubtful=1)
        assert counts(dataset.facts) == {"image resized after labeling": 1, "unusable mask": 1}
        assert rows(dataset)[0]["bbox"] == [30, 20, 15, 10]

    def test_an_enlarged_image_with_boxes_all_over_the_old_size(self, tmp_path: Path) -> None:
        places = [[x, y, 8.0, 8.0] for x in (0.0, 12.0, 24.0, 36.0) for y in (0.0, 10.0, 20.0, 30.0)] * 2
        dataset = prepared(folder(tmp_path, (96, 80), (48, 40), places))
        assert counts(dataset.facts) == {"image resized after labeling": 32}
        assert rows(dataset)[5]["bbox"] == [24, 20, 16, 16]

    def test_one_image_that_tells_nothing_is_an_assumption(self, tmp_path: Path) -> None:
        root = folder(tmp_path, (96, 80), (48, 40), [[4, 4, 8, 8]])
        with pytest.raises(DataError, match=r"^train: 1 of 1 images are left out or assumed .*set data.max_doubtful to 1 to go on$"):
            prepared(root)
        (root / "out").rmdir()
        dataset = prepared(root, max_doubtful=1)
        assert counts(dataset.facts) == {"image perhaps resized after labeling": 1}
        assert rows(dataset)[0]["bbox"] == [8, 8, 16, 16]

    def test_a_stretched_image_is_scaled_per_axis_and_assumed(self, tmp_path: Path) -> None:
        dataset = prepared(folder(tmp_path, (64, 64), (128, 96), [[100, 60, 20, 30]]), max_doubtful=1)
        assert rows(dataset)[0]["bbox"] == [50, 40, 10, 20]
        assert examples(dataset.facts, "image stretched after labeling") == [
            "train0.png is 64 x 64 px, annotated as 128 x 96; boxes and masks scaled by 0.5 across and 0.6667 down"
        ]


class TestWrongSizes:
    def test_boxes_beyond_the_stated_size_are_px_of_the_file(self, tmp_path: Path) -> None:
        dataset = prepared(folder(tmp_path, (96, 80), (48, 40), [[60, 50, 20, 20], [4, 4, 8, 8]]))
        assert [row["bbox"] for row in rows(dataset)] == [[60, 50, 20, 20], [4, 4, 8, 8]]
        assert counts(dataset.facts) == {"annotated size is wrong": 2}
        assert {note.action for note in dataset.facts.notes} == {"repaired"}

    def test_a_code_of_the_files_size_is_kept(self, tmp_path: Path) -> None:
        code = {"size": [40, 48], "counts": [13, 4, 6, 4, 1893]}
        dataset = prepared(folder(tmp_path, (48, 40), (640, 640), [[4, 4, 8, 8]], segmentation=code))
        assert (rows(dataset)[0]["bbox"], rows(dataset)[0]["segmentation"]) == ([4, 4, 8, 8], code)
        assert counts(dataset.facts) == {"annotated size is wrong": 1}

    def test_width_and_height_exchanged(self, tmp_path: Path) -> None:
        dataset = prepared(folder(tmp_path, (96, 60), (60, 96), [[70, 10, 20, 30]]))
        assert rows(dataset)[0]["bbox"] == [70, 10, 20, 30]
        assert counts(dataset.facts) == {"annotated size is wrong": 1}

    def test_an_image_rotated_after_labeling_is_left_out(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"train: no usable image; train: left out: image rotated after labeling: 1 of 1 image"):
            prepared(folder(tmp_path, (96, 60), (60, 96), [[10, 70, 20, 20]]))

    @pytest.mark.parametrize("stated", [(0, 0), (-5, 10), ("wide", 3), (None, 40)])
    def test_nonsense_is_ignored(self, tmp_path: Path, stated: tuple[Any, Any]) -> None:
        dataset = prepared(folder(tmp_path, (48, 40), stated, [[4, 4, 8, 8]]))
        assert rows(dataset)[0]["bbox"] == [4, 4, 8, 8]
        assert counts(dataset.facts) == ({} if stated == (0, 0) else {"unusable width and height of an image": 1})


def test_sizes_written_as_text_count() -> None:
    assert (stated_size("96", "80.0"), stated_size(float("nan"), 3), stated_size("x", 3)) == ((96, 80), None, None)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [((4000, 3000), (133, 100), True), ((133, 100), (4000, 3000), True), ((640, 640), (640, 480), False), ((100, 75), (50, 38), True)],
)
def test_similar_allows_for_rounding(one: tuple[int, int], other: tuple[int, int], expected: bool) -> None:
    assert similar(one, other) is expected


def test_a_few_generous_boxes_among_many_decide_nothing() -> None:
    file = ImageFile(200, 200, 1, Stored())
    images = [Labeled((100, 100), file, [(10 + i % 60, 10 + i % 50, 30.0, 30.0)]) for i in range(200)]
    images += [Labeled((100, 100), file, [(90.0, 40.0, 30.0, 20.0)])] * 5
    assert {reading.kind.name for reading in read(images)} == {"image resized after labeling"}


def test_a_file_that_was_resized_and_keeps_its_rotation() -> None:
    (reading,) = read([Labeled((40, 20), ImageFile(10, 20, 6, Stored()), [(30.0, 2.0, 8.0, 8.0)])])
    assert reading.fit is not None
    assert reading.fit.box((30.0, 2.0, 8.0, 8.0)) == (5, 15, 4, 4)
