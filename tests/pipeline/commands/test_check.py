"""What the data doctor finds, and that it finds nothing in healthy data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.contract import Preprocessing
from stages.datasets import Source
from stages.datasets.cleaning.findings import Finding, examine
from stages.notes import Note

SIZE = Preprocessing(height=64, width=64)


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Random blobs, a different picture for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


class Data:
    """Healthy splits to be spoiled: three images each with a box of both classes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: dict[str, dict[str, list[Any]]] = {}
        for number, split in enumerate(("train", "val", "test")):
            (root / split).mkdir()
            images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(3)]
            for image in images:
                picture(10 * number + int(str(image["id"]))).save(root / split / str(image["file_name"]))
            boxes = [
                {"id": 2 * i + kind, "image_id": i, "category_id": kind, "bbox": [5, 5, 20, 19 + kind], "iscrowd": 0}
                for i in range(3)
                for kind in (1, 2)
            ]
            self.rows[split] = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}

    def findings(self, **options: Any) -> list[Finding]:
        return examine({split: Source(self.root / split, rows) for split, rows in self.rows.items()}, SIZE, **options)

    def only(self, **options: Any) -> Finding:
        found = self.findings(**options)
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def test_healthy_data(data: Data) -> None:
    assert data.findings() == []
    assert data.findings(strict=True) == []


def test_contradictions_are_errors(data: Data) -> None:
    data.rows["val"]["annotations"][0]["image_id"] = 77
    found = data.only()
    assert (found.level, found.message) == ("error", "val: annotation 1 has image_id 77, which no image has")


@pytest.mark.parametrize(("strict", "level"), [(False, "warning"), (True, "error")])
def test_what_cleaning_leaves_out(data: Data, strict: bool, level: str) -> None:
    (data.root / "train/0.png").unlink()
    (data.root / "val/0.png").write_text("hello")
    data.rows["test"]["annotations"][0]["bbox"] = [1, 1, 0, 5]
    data.rows["test"]["annotations"][1]["bbox"] = [1, 1, 0, 6]
    found = data.findings(strict=strict)
    assert {(one.level, one.split, one.message.split(", first")[0]) for one in found if one.level == level} == {
        (level, "train", "left out: missing image: 1 of 3 images"),
        (level, "val", "left out: unreadable image: 1 of 3 images"),
        (level, "test", "left out: degenerate box: 2 of 6 boxes"),
    }
    assert "annotation 1 of 0.png, bbox [1, 1, 0, 5]" in next(one.message for one in found if one.split == "test" and one.level == level)


def test_images_that_were_resized_are_an_info_and_assumptions_a_warning(data: Data) -> None:
    for image, box in zip(data.rows["train"]["images"], data.rows["train"]["annotations"][::2], strict=True):
        image |= {"width": 128, "height": 96}
        box["bbox"] = [80, 60, 40, 30]
    found = [(one.level, one.split, one.message) for one in data.findings()]
    done = "first: 0.png is 64 x 48 px, annotated as 128 x 96; boxes and masks scaled by 0.5"
    assert ("info", "train", f"repaired: image resized after labeling: 3 of 3 images, {done}") in found
    for box in data.rows["train"]["annotations"]:
        box["bbox"] = [4, 4, 40, 40]
    assert "assumed: annotated size is perhaps wrong: 3 of 3 images" in next(
        one.message for one in data.findings() if one.level == "warning"
    )


def test_more_doubt_than_allowed_is_an_error(data: Data) -> None:
    (data.root / "train/0.png").unlink()
    text = "train: 1 of 3 images are left out or assumed (missing image 1), first: "
    (error,) = [one.message for one in data.findings(max_doubtful=0.2) if one.level == "error"]
    assert error.startswith(text)
    assert error.endswith("train/0.png; mend the data, or set data.max_doubtful to 0.34 to go on")
    assert not [one for one in data.findings(max_doubtful=0.34) if one.level == "error"]


def test_notes_of_readers_are_findings(data: Data) -> None:
    orphans = {
        "kind": "label file without an image",
        "action": "left out",
        "unit": "files",
        "split": "train",
        "count": 2,
        "examples": ("a.txt",),
    }
    renamed = {"kind": "renamed", "action": "repaired", "unit": "images", "split": "train", "count": 1, "examples": ("A.png is a.png",)}
    notes = tuple(map(Note.model_validate, (orphans, renamed)))
    sources = {split: Source(data.root / split, rows, notes if split == "train" else ()) for split, rows in data.rows.items()}
    mend = "mend the data, or set data.max_doubtful to 0.67 to go on"
    found = [(one.level, one.message) for one in examine(sources, SIZE, max_doubtful=0.2)]
    assert found == [
        (
            "error",
            f"train: 2 files, with 3 images, are left out or assumed (label file without an image 2), first: a.txt; {mend}",
        ),
        ("warning", "left out: label file without an image: 2 files, first: a.txt"),
        ("info", "repaired: renamed: 1 of 3 images, first: A.png is a.png"),
    ]


def test_the_same_file_in_train_and_val(data: Data) -> None:
    (data.root / "val/1.png").write_bytes((data.root / "train/2.png").read_bytes())
    found = data.only()
    assert (found.level, found.split) == ("error", "val")
    assert found.message.startswith("files that are also in train: 1, for example 1.png as 2.png")


def test_the_same_file_in_val_and_test_is_less_serious(data: Data) -> None:
    (data.root / "test/1.png").write_bytes((data.root / "val/2.png").read_bytes())
    found = data.only()
    assert (found.level, found.split) == ("warning", "test")


def test_the_same_picture_in_another_file(data: Data) -> None:
    picture(2).save(data.root / "val/1.png", "JPEG", quality=85)
    found = data.only()
    assert (found.level, found.split) == ("warning", "val")
    assert found.message.startswith("images that look like one in train: 1, for example 1.png like 2.png")


def test_flat_pictures_are_not_taken_for_the_same(data: Data) -> None:
    for split, shade in (("train", 100), ("val", 101)):
        Image.new("RGB", (64, 48), (shade,) * 3).save(data.root / split / "0.png")
    assert all("blank image" in finding.message for finding in data.findings())


def test_twice_in_one_split(data: Data) -> None:
    (data.root / "train/1.png").write_bytes((data.root / "train/2.png").read_bytes())
    found = data.only()
    assert (found.level, found.split, found.message) == ("info", "train", "images that occur more than once: 1, for example 1.png as 2.png")


def test_gaps_in_category_ids(data: Data) -> None:
    for rows in data.rows.values():
        rows["categories"][1]["id"] = 5
        for row in rows["annotations"]:
            row["category_id"] = {1: 1, 2: 5}[row["category_id"]]
    found = data.only()
    assert (found.level, found.message.split(";")[0]) == ("info", "category ids not in use: 2, 3, 4")


@pytest.mark.parametrize(
    ("split", "level", "message"),
    [
        ("train", "warning", "no object of dog; the class cannot be learned"),
        ("val", "warning", "no object of dog; the class has no accuracy there"),
        ("test", "info", "no object of dog; the class has no accuracy there"),
    ],
)
def test_a_class_that_is_absent(data: Data, split: str, level: str, message: str) -> None:
    for row in data.rows[split]["annotations"]:
        row["category_id"] = 1
    found = data.only()
    assert (found.level, found.split, found.message) == (level, split, message)


def test_unbalanced_classes(data: Data) -> None:
    first = data.rows["train"]["annotations"][0]
    data.rows["train"]["annotations"] += [first | {"id": 100 + i, "bbox": [6 + i / 10, 5, 20, 20]} for i in range(57)]
    assert data.findings() == []
    data.rows["train"]["annotations"].append(first | {"id": 200, "bbox": [20, 20, 20, 20]})
    assert data.only().message == "classes are unbalanced: 61 x cat, 3 x dog"


def test_objects_that_are_tiny_for_the_network(data: Data) -> None:
    data.rows["train"]["annotations"][0]["bbox"] = [5, 5, 7.9, 7.9]  # one of six; the input is as wide as the image
    found = data.only()
    assert (found.level, found.message.split(";")[0]) == ("warning", "objects below 8 px at the network's input of 64 x 64: 1 of 6")
    data.rows["train"]["annotations"][0]["bbox"] = [5, 5, 8, 8]
    assert data.findings() == []


def test_images_without_objects_and_boxes_over_the_edge(data: Data) -> None:
    data.rows["val"]["annotations"] = [row for row in data.rows["val"]["annotations"] if row["image_id"] != 2]
    data.rows["val"]["annotations"][0]["bbox"] = [50, 5, 20, 20]
    where = "first: annotation 1 of 0.png, used as [50.0, 5.0, 20.0, 20.0]"
    assert [(one.level, one.message) for one in data.findings()] == [
        ("warning", f"assumed: box beyond the edge of its image: 1 of 4 boxes, {where}"),
        ("info", "images without an object: 1 of 3"),
    ]


def test_nothing_left_is_an_error(data: Data) -> None:
    data.rows["train"]["annotations"].clear()
    assert ("error", "train", "no usable box to learn from") in [(one.level, one.split, one.message) for one in data.findings()]
    assert not [one for one in data.findings(learns=False) if one.level == "error"]
    for path in (data.root / "val").iterdir():
        path.unlink()
    found = data.findings()
    assert ("error", "val", "no usable image") in [(one.level, one.split, one.message) for one in found]
    assert [one.level for one in found] == sorted((one.level for one in found), key=["error", "warning", "info"].index)


@pytest.mark.parametrize(("count", "expected"), [(20, 0), (19, 1)])
def test_one_tiny_object_in_twenty_is_let_pass(data: Data, count: int, expected: int) -> None:
    first = data.rows["train"]["annotations"][0]
    data.rows["train"]["annotations"] += [first | {"id": 100 + i, "bbox": [6 + i, 5, 20, 20]} for i in range(count - 6)]
    data.rows["train"]["annotations"][0]["bbox"] = [5, 5, 2, 2]
    assert len(data.findings()) == expected
