"""Cleaning as COCO means it, and what is refused instead."""

import copy
import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noted import counts, examples
from PIL import Image
from places import ROOT

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.prediction import masks
from deploy.prediction.image_files import load_image
from stages.artifacts import Dataset
from stages.config import DataConfig
from stages.facts import DatasetFacts
from stages.prepare import identity, prepare

Rows = dict[str, list[dict[str, Any]]]
NAN, INF = float("nan"), float("inf")


class Folder:
    """A small COCO folder: two images of 20 x 10 px a split with one box each, to be spoiled."""

    def __init__(self, place: Path) -> None:
        self.root = place / "data"
        self.out = place / "out"
        self.splits: dict[str, Rows] = {split: self._rows(split) for split in ("train", "val")}

    def _rows(self, split: str) -> Rows:
        (self.root / "images").mkdir(parents=True, exist_ok=True)
        images = [{"id": i, "file_name": f"{split}{i}.png", "width": 20, "height": 10} for i in (1, 2)]
        for image in images:
            picture = Image.new("RGB", (20, 10), "white")
            picture.putpixel((0, 0), (0, 0, 0))
            picture.save(self.root / "images" / str(image["file_name"]))
        boxes = [{"id": 10 + i, "image_id": i, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12.0, "iscrowd": 0} for i in (1, 2)]
        return {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]}

    @property
    def train(self) -> Rows:
        return self.splits["train"]

    def box(self, **changes: Any) -> None:
        """One more annotation of the first training image, with a box of its own."""
        number = len(self.train["annotations"])
        row = self.train["annotations"][0] | {"id": 100 + number, "bbox": [number, 2, 3, 4]} | changes
        self.train["annotations"].append({key: value for key, value in row.items() if value is not ...})

    def prepare(self, **options: Any) -> Dataset:
        for split, rows in self.splits.items():
            path = self.root / "annotations" / f"instances_{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(rows), encoding="utf-8")
        self.out.mkdir(exist_ok=True)
        return prepare(self.out, DataConfig.model_validate({"dataset": "coco", "root": str(self.root), "max_doubtful": 1, **options}))

    def facts(self) -> DatasetFacts:
        return self.prepare().facts

    def kept(self) -> list[dict[str, Any]]:
        return list(json.loads(self.prepare().annotations("train").read_text())["annotations"])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class TestWhatIsWritten:
    def test_rows_are_written_one_by_one_as_the_json_of_all(self, folder: Folder) -> None:
        folder.box(bbox=[2, 1, 3.25, 4], segmentation=[[2, 1, 5.25, 1, 5.25, 5, 2, 5]])
        text = folder.prepare().annotations("train").read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text))
        assert len(json.loads(text)["annotations"]) == 3

    def test_contract_and_splits(self, folder: Folder) -> None:
        facts = folder.prepare(preprocessing={"height": 64, "width": 96}).facts
        assert facts.contract.category_ids == (3, 7)
        assert facts.contract.classes == ("cat", "dog")
        assert facts.contract.preprocessing.width == 96
        assert {name: (s.num_images, s.num_boxes) for name, s in facts.splits.items()} == {"train": (2, 2), "val": (2, 2)}
        assert facts.notes == ()

    def test_images_outside_are_absolute_and_generated_ones_move_along(self, folder: Folder, tmp_path: Path) -> None:
        dataset = folder.prepare()
        assert dataset.images("train") == folder.root.resolve() / "images"
        out = tmp_path / "scratch"
        out.mkdir()
        counts = {"train_images": 2, "val_images": 1, "test_images": 1, "shifted_images": 1}
        made = prepare(out, DataConfig.model_validate({"dataset": "digits", **counts}))
        moved = Dataset(made.root.rename(tmp_path / "final"))
        assert sorted(path.name for path in moved.images("train").iterdir()) == ["000001.jpg", "000002.jpg"]
        assert set(moved.facts.splits) == {"train", "val", "test", "shifted"}

    def test_only_cocos_keys_are_kept(self, folder: Folder) -> None:
        folder.train["images"][0] |= {"license": 3, "coco_url": "http://example.com", "width": NAN, "height": None}
        folder.box(segmentation=[[1, 1, 4, 1, 4, 4]], score=NAN, attributes={"color": "red"})
        last = folder.kept()[-1]
        assert set(last) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"}

    def test_short_values_of_images_are_kept_as_text_and_nan_is_none(self, folder: Folder) -> None:
        first, second = folder.train["images"]
        first |= {"weather": "rain", "camera": 3, "hour": NAN, "site": None, "view": ""}
        second |= {"weather": NAN}
        assert folder.prepare().image_fields("train") == {1: {"weather": "rain", "camera": "3"}}

    def test_what_is_missing_is_filled_in(self, folder: Folder) -> None:
        del folder.train["images"][0]["width"], folder.train["images"][0]["height"]
        folder.box(area=..., iscrowd=...)
        dataset = folder.prepare()
        coco = json.loads(dataset.annotations("train").read_text())
        assert coco["images"][0] == {"id": 1, "file_name": "train1.png", "width": 20, "height": 10}
        assert (coco["annotations"][-1]["area"], coco["annotations"][-1]["iscrowd"]) == (12.0, 0)
        assert dataset.facts.notes == ()

    def test_crowds_are_kept_as_crowds(self, folder: Folder) -> None:
        folder.box(iscrowd=1, segmentation={"size": [10, 20], "counts": [0, 200]})
        last = folder.kept()[-1]
        assert (last["iscrowd"], last["segmentation"]["counts"]) == (1, [0, 200])

    def test_images_without_objects_are_kept(self, folder: Folder) -> None:
        folder.train["annotations"].pop()
        assert (folder.facts().splits["train"].num_images, folder.facts().splits["train"].num_boxes) == (2, 1)

    def test_boxes_over_the_edge_are_kept_as_they_are(self, folder: Folder) -> None:
        folder.box(bbox=[-2.5, 5, 30, 30])
        assert folder.kept()[-1]["bbox"] == [-2.5, 5, 30, 30]
        assert counts(folder.facts()) == {"box beyond the edge of its image": 1}

    def test_subfolders_in_file_names(self, folder: Folder) -> None:
        (folder.root / "images/deep").mkdir()
        Image.linear_gradient("L").resize((20, 10)).save(folder.root / "images/deep/x.png")
        folder.train["images"][0]["file_name"] = "deep/x.png"
        dataset = folder.prepare()
        assert load_image(dataset.images("train") / "deep/x.png", Preprocessing()).shape == (10, 20, 3)


class TestTwice:
    def test_an_object_counts_once(self, folder: Folder) -> None:
        folder.box(bbox=[5, 2, 3, 4], segmentation=[[5, 2, 8, 2, 8, 6]])
        folder.box(bbox=[1, 2, 3, 4])
        folder.box(bbox=[5, 2, 3, 4], area=1, segmentation=[[5, 2, 8, 2, 8, 6]])
        assert [row["bbox"] for row in folder.kept()] == [[1, 2, 3, 4], [1, 2, 3, 4], [5, 2, 3, 4]]
        assert counts(folder.facts()) == {"object written twice": 2}
        assert examples(folder.facts(), "object written twice")[0] == "annotation 103 of train1.png, bbox [1.0, 2.0, 3.0, 4.0]"

    def test_what_differs_in_anything_is_another_one(self, folder: Folder) -> None:
        for changes in ({"category_id": 3}, {"iscrowd": 1}, {"segmentation": [[1, 2, 4, 2, 4, 6]]}, {"image_id": 2, "bbox": [2, 2, 3, 4]}):
            folder.box(**{"bbox": [1, 2, 3, 4]} | changes)
        for left in (-1, -2):  # which have one hash in Python
            folder.box(bbox=[left, 2, 3, 4])
        assert len(folder.kept()) == 8
        assert "object written twice" not in counts(folder.facts())


class TestMasks:
    CODES = (
        {"size": [10, 20], "counts": [13, 4, 6, 4, 173]},
        {"size": [10, 20], "counts": masks.encode(np.ones((4, 3), bool), (10, 20), 1, 2)["counts"]},
    )

    @pytest.mark.parametrize("code", [*CODES, [[1, 2, 4, 2, 4, 6], [1, 3, 2, 3, 2, 4]]], ids=["counts", "text", "polygons"])
    def test_every_form_is_kept_as_it_is(self, folder: Folder, code: Any) -> None:
        folder.box(segmentation=code)
        assert folder.kept()[-1]["segmentation"] == code
        assert folder.facts().notes == ()

    @pytest.mark.parametrize(
        "code",
        [
            {"size": [20, 10], "counts": [13, 4, 6, 4, 173]},
            {"size": [10, 20], "counts": [0, 100]},
            {"size": [10, 20], "counts": [200]},
            {"size": [10, 20], "counts": "not a code"},
            {"size": [10, 20], "counts": ["a"]},
            {"size": [10, 20], "counts": None},
            {"size": 200, "counts": [200]},
            {"counts": [200]},
            [[1, 2, 3, 4]],
            [[1, 2, 4, 2, NAN, 6]],
            "mask.png",
        ],
        ids=str,
    )
    def test_what_cannot_be_read_is_left_out_and_its_object_stays(self, folder: Folder, code: Any) -> None:
        folder.box(segmentation=code)
        assert "segmentation" not in folder.kept()[-1]
        facts = folder.facts()
        assert counts(facts) == {"unusable mask": 1}
        assert examples(facts, "unusable mask")[0].startswith("annotation 102 of train1.png, segmentation ")
        assert facts.splits["train"].num_boxes == 3

    @pytest.mark.parametrize("part", [[10, 1, 15, 5], [NAN] * 6, ["x"], [None, None], "x"], ids=str)
    def test_a_part_that_cannot_be_read_is_left_out_with_a_note(self, folder: Folder, part: Any) -> None:
        good = [1, 2, 4, 2, 4, 6, 1, 6]
        folder.box(segmentation=[part, good])
        assert folder.kept()[-1]["segmentation"] == [good]
        assert counts(folder.facts()) == {"unusable part of a mask": 1}

    def test_parts_that_are_left_out_refuse_nothing(self, folder: Folder) -> None:
        for rows in folder.splits.values():
            for row in rows["annotations"]:
                row["segmentation"] = [[1, 2, 4, 2, 4, 6, 1, 6], [1, 2, 1, 3]]
        assert set(counts(folder.prepare(max_doubtful=0).facts)) == {"unusable part of a mask"}

    def test_an_empty_part_is_no_problem(self, folder: Folder) -> None:
        folder.box(segmentation=[[1, 2, 4, 2, 4, 6, 1, 6], []])
        folder.box(segmentation=[[]])
        assert folder.facts().notes == ()

    @pytest.mark.parametrize("mask", [[[0.1, None]], [None], ["x"], [[0.1, 0.2, 0.3]]], ids=str)
    def test_one_that_cannot_be_read_is_left_out_of_data_in_fractions(self, folder: Folder, mask: Any) -> None:
        for rows in folder.splits.values():
            for row in rows["annotations"]:
                row |= {"bbox": [0.1, 0.2, 0.15, 0.4], "area": 0.06}
        folder.box(bbox=[0.5, 0.2, 0.15, 0.4], segmentation=mask)
        facts = folder.prepare(boxes="fractions").facts
        assert counts(facts) == {"unusable mask": 1}
        kept = json.loads((folder.out / "annotations/train.json").read_text())["annotations"]
        assert [row["area"] for row in kept] == pytest.approx([12, 12, 12])

    @pytest.mark.parametrize("code", [None, [], ..., {}], ids=str)
    def test_an_object_without_one_is_no_problem(self, folder: Folder, code: Any) -> None:
        folder.box(segmentation=code)
        assert folder.facts().notes == ()


class TestWhatIsLeftOut:
    @pytest.mark.parametrize(
        ("box", "kind"),
        [
            ([1, 2, 0, 4], "degenerate box"),
            ([1, 2, 3, -1], "degenerate box"),
            ([NAN, 2, 3, 4], "degenerate box"),
            ([1, 2, INF, 4], "degenerate box"),
            ([1, 2, 3], "degenerate box"),
            ([20, 2, 3, 4], "box outside its image"),
            ([1, 10, 3, 4], "box outside its image"),
            ([-3, 2, 3, 4], "box outside its image"),
            ([1, -9, 3, 4], "box outside its image"),
        ],
    )
    def test_boxes(self, folder: Folder, box: Any, kind: str) -> None:
        folder.box(bbox=box)
        facts = folder.facts()
        assert counts(facts) == {kind: 1}
        assert examples(facts, kind)[0].startswith("annotation 102 of train1.png, bbox ")
        assert facts.splits["train"].num_boxes == 2
        with pytest.raises(
            DataError, match=f"^train: left out: {kind}: 1 of 3 boxes, first: annotation 102 .*fix the data, or set data.strict to false$"
        ) as error:
            folder.prepare(strict=True)
        assert "\n" not in str(error.value)

    def spoil(self, path: Path, how: str) -> None:
        match how:
            case "missing":
                path.unlink()
            case "no image":
                path.write_text("hello")
            case "empty":
                path.write_bytes(b"")
            case "truncated":
                noise = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
                Image.fromarray(noise).save(path)
                path.write_bytes(path.read_bytes()[:-100])

    @pytest.mark.parametrize(
        ("how", "kind"),
        [
            ("missing", "missing image"),
            ("no image", "unreadable image"),
            ("empty", "unreadable image"),
            ("truncated", "unreadable image"),
        ],
    )
    def test_images_and_their_boxes(self, folder: Folder, how: str, kind: str) -> None:
        self.spoil(folder.root / "images/train1.png", how)
        folder.box(bbox=[0, 0, 0, 0])  # goes with its image, and is no problem of its own
        facts = folder.facts()
        assert counts(facts) == {kind: 1}
        assert "train1.png" in examples(facts, kind)[0]
        assert (facts.splits["train"].num_images, facts.splits["train"].num_boxes) == (1, 1)
        with pytest.raises(DataError, match=rf"{kind}: .*train1\.png"):
            folder.prepare(strict=True)

    def test_many_are_counted_and_the_first_named(self, folder: Folder) -> None:
        for _ in range(12):
            folder.box(bbox=[0, 0, 0, 0])
        facts = folder.facts()
        assert counts(facts) == {"degenerate box": 12}
        assert [name.split()[1] for name in examples(facts, "degenerate box")] == ["102", "103", "104", "105", "106"]
        with pytest.raises(DataError, match=r"^train: left out: degenerate box: 12 of 14 boxes, first: annotation 102 .*; fix"):
            folder.prepare(strict=True)


class TestExifRotation:
    """A mark is drawn at a known box of the stored pixels; wherever rotation takes it, the prepared box must lie there."""

    def image(self, folder: Folder, orientation: int, kind: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.new("RGB", (20, 10))
        stored.paste("white", (2, 1, 7, 4))
        stored.save(folder.root / "images/train1.png", kind, exif=exif)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize("orientation", [5, 6, 7, 8])
    def test_annotations_of_the_stored_image_are_turned(self, folder: Folder, orientation: int, kind: str) -> None:
        self.image(folder, orientation, kind)
        folder.train["annotations"][0] |= {"bbox": [2, 1, 5, 3], "segmentation": [[2, 1, 7, 1, 7, 4, 2, 4]]}
        folder.box(bbox=[2, 1, 5, 3], segmentation=masks.encode(np.ones((3, 5), bool), (10, 20), 2, 1))
        dataset = folder.prepare()
        assert counts(dataset.facts) == {"image turned by its EXIF orientation": 1}
        coco = json.loads(dataset.annotations("train").read_text())
        assert (coco["images"][0]["width"], coco["images"][0]["height"]) == (10, 20)
        row = coco["annotations"][0]
        bright = load_image(dataset.images("train") / "train1.png", Preprocessing())[..., 0] > 128
        rows, columns = np.nonzero(bright)
        expected = [columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()]
        assert row["bbox"] == expected
        polygon = np.array(row["segmentation"][0]).reshape(-1, 2)
        assert [*polygon.min(axis=0), *(polygon.max(axis=0) - polygon.min(axis=0))] == expected
        code = coco["annotations"][-1]["segmentation"]
        assert np.array_equal(masks.decode(code, (20, 10)), bright)

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize("orientation", [5, 6, 7, 8])
    def test_annotations_of_the_upright_image_are_left_alone(self, folder: Folder, orientation: int, kind: str) -> None:
        self.image(folder, orientation, kind)
        folder.train["images"][0] |= {"width": 10, "height": 20}
        folder.train["annotations"][0]["bbox"] = [1, 12, 5, 6]
        assert folder.kept()[0]["bbox"] == [1, 12, 5, 6]
        assert folder.facts().notes == ()

    def test_a_degenerate_box_stays_one(self, folder: Folder) -> None:
        self.image(folder, 6, "PNG")
        folder.train["annotations"][0]["bbox"] = [2, 1, -5, 3]
        assert counts(folder.facts()) == {"degenerate box": 1}


REFUSED: list[tuple[Callable[[Folder], Any], str]] = [
    (lambda f: f.box(category_id=5), "instances_train.json: annotation 102 has unknown category_id 5; known: 3, 7"),
    (lambda f: f.box(category_id=...), "unknown category_id None"),
    (lambda f: f.box(id=True), "annotation number 3 has id True; ids are whole numbers"),
    (lambda f: f.train["images"][0].update(id=True), "image number 1 has id True"),
    (lambda f: f.train["images"][0].pop("file_name"), "image 1 has no file_name"),
    (lambda f: f.train["categories"].append({"id": 3, "name": "bird"}), "two categories have the id 3: cat and bird"),
    (lambda f: f.train["categories"].append({"id": 4}), "category 4 has no name"),
    (lambda f: f.train["categories"].clear(), "instances_train.json: no categories"),
    (lambda f: f.splits["val"]["categories"][0].update(name="wolf"), "instances_val.json: 2 objects of class 'wolf', which "),
    (lambda f: f.train.pop("annotations"), "instances_train.json: no 'annotations' in it"),
    (lambda f: f.train["images"].append("a.png"), "instances_train.json: 'images' should be a list of objects"),  # type: ignore[arg-type]
    (lambda f: f.train.update(images=[], annotations=[]), "train: no usable image"),
    (lambda f: [row.update(iscrowd=1) for row in f.train["annotations"]], "train: no usable box to learn from"),
    (
        lambda f: [row.update(bbox=[0, 0, 0, 0]) for row in f.train["annotations"]],
        "no usable box to learn from; train: left out: degenerate box: 2 of 2 boxes, first: annotation 11",
    ),
    (
        lambda f: [p.write_text("") for p in (f.root / "images").glob("val*")],
        "val: no usable image; val: left out: unreadable image: 2 of 2 images, first: ",
    ),
    (
        lambda f: [row.update(file_name=f"gone{row['file_name']}", height=-1) for row in f.splits["val"]["images"]],
        "val: no usable image; val: left out: missing image: 2 of 2 images, first: ",
    ),
    (lambda f: f.splits.pop("val"), "no val split: the data has train, and train and val are needed; set data.val_share: 0.2"),
    (lambda f: f.splits.pop("train"), "no train split: the data has val, and train and val are needed"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_refused(folder: Folder, spoil: Callable[[Folder], Any], message: str) -> None:
    spoil(folder)
    with pytest.raises(DataError) as error:
        folder.prepare()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder.root / "out/artifact.json").exists()


def test_a_train_split_without_any_annotation_is_prepared_for_whoever_learns_from_no_labels(folder: Folder) -> None:
    folder.train["annotations"].clear()
    assert folder.facts().splits["train"].num_boxes == 0


def test_nothing_is_written_elsewhere(folder: Folder) -> None:
    folder.prepare()
    before = {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if "out" not in path.parts}
    annotations = copy.deepcopy(folder.splits)
    prepare(folder.out, DataConfig.model_validate({"dataset": "coco", "root": str(folder.root)}))
    assert {path: path.stat().st_mtime_ns for path in folder.root.rglob("*") if "out" not in path.parts} == before
    assert folder.splits == annotations


def test_a_full_disk_is_an_oserror_with_its_reason(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder.prepare()
    config = DataConfig.model_validate({"dataset": "coco", "root": str(folder.root)})
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left on device"):
        prepare(folder.out, config)


def test_identity_is_the_data_sets_own(folder: Folder) -> None:
    folder.prepare()
    config = DataConfig.model_validate({"dataset": "coco", "root": str(folder.root)})
    assert set(identity(config)) == {"annotations", "images", "splits"}
    assert prepare.__dict__["stage_info"].identity is identity


def test_torch_is_not_imported() -> None:
    code = "import sys, stages.prepare, stages.datasets.cleaning.findings; print('torch' in sys.modules, 'globox' in sys.modules)"
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
