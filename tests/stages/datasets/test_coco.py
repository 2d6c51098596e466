"""COCO files as annotation tools and scripts write them: what is repaired, assumed, left out and refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploy.errors import DataError
from deploy.prediction import masks
from stages.datasets import Source, coco
from stages.datasets.cleaning import rules

Rows = dict[str, Any]
TRUTH = [("a.jpg", "dog", [10, 5, 20, 30]), ("b.jpg", "cat", [50, 40, 30, 20]), ("b.jpg", "dog", [60, 10, 35, 15])]
NAN = float("nan")


def rows() -> Rows:
    """Two images of 100 x 80 px with three objects."""
    files, ids = {"a.jpg": 1, "b.jpg": 2}, {"cat": 1, "dog": 2}
    annotations: list[dict[str, Any]] = [
        {"id": number, "image_id": files[file], "category_id": ids[name], "bbox": list(box), "iscrowd": 0}
        for number, (file, name, box) in enumerate(TRUTH, start=1)
    ]
    images = [{"id": number, "file_name": name, "width": 100, "height": 80} for name, number in files.items()]
    categories = [{"id": number, "name": name, "supercategory": "animal"} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def draw(folder: Path, *names: str) -> None:
    for name in names or ("a.jpg", "b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(folder / name)


class TwoSplits:
    """A folder with train and val, to be changed before it is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train, self.val = rows(), rows()
        for split in ("train", "val"):
            draw(root / split)

    def build(self, **options: Any) -> dict[str, Source]:
        save(self.root / "annotations/instances_train.json", self.train)
        save(self.root / "annotations/instances_val.json", self.val)
        found = coco.build(self.root, root=str(self.root), **options)
        rules.check_splits(found)
        return found


@pytest.fixture
def data(tmp_path: Path) -> TwoSplits:
    return TwoSplits(tmp_path / "set")


def boxes(source: Source) -> list[tuple[str, str, list[float]]]:
    files = {row["id"]: row["file_name"] for row in source.coco["images"]}
    names = {row["id"]: row["name"] for row in source.coco["categories"]}
    return [(files[row["image_id"]], names[row["category_id"]], row["bbox"]) for row in source.coco["annotations"]]


def expect(source: Source) -> None:
    """The objects of `rows`, but for rounding."""
    assert [row[:2] for row in boxes(source)] == [row[:2] for row in TRUTH]
    assert [row[2] for row in boxes(source)] == [pytest.approx(row[2]) for row in TRUTH]


def noted(source: Source) -> list[tuple[str, str, int]]:
    return [(note.action, note.kind, note.count) for note in source.notes]


def each(key: str, change: Callable[[Any], Any], *lists: str) -> Callable[[Rows], None]:
    def apply(content: Rows) -> None:
        for name in lists:
            for row in content[name]:
                row[key] = change(row[key])

    return apply


def all_ids(change: Callable[[int], Any]) -> Callable[[Rows], None]:
    def apply(content: Rows) -> None:
        for name, key in (("images", "image_id"), ("categories", "category_id")):
            each("id", change, name)(content)
            each(key, change, "annotations")(content)

    return apply


def without(key: str) -> Callable[[Rows], None]:
    def apply(content: Rows) -> None:
        for row in content["annotations"]:
            del row[key]

    return apply


def polygon(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def polygons_only(content: Rows) -> None:
    for row in content["annotations"]:
        row["segmentation"] = [polygon(row.pop("bbox"))]


def repeat_ids(content: Rows) -> None:
    for row in content["annotations"]:
        row["id"] = 7


def list_twice(content: Rows) -> None:
    """A second entry of b.jpg, with the last annotation."""
    content["images"].append(content["images"][1] | {"id": 3})
    content["annotations"][2]["image_id"] = 3


SAME = [
    (all_ids(str), [("repaired", "id written as text or fraction", 2)]),
    (all_ids(float), [("repaired", "id written as text or fraction", 2)]),
    (all_ids(lambda one: f"00{one}"), [("repaired", "id written as text or fraction", 2)]),
    (all_ids(lambda one: f"n{one}"), [("repaired", "ids that are not numbers, numbered in order", 2)]),
    (all_ids(lambda one: 10**20 + one), [("repaired", "ids that are not numbers, numbered in order", 2)]),
    (each("image_id", str, "annotations"), [("repaired", "id written as text or fraction", 1)]),
    (
        each("image_id", lambda one: {1: "a.jpg", 2: "b.jpg"}[one], "annotations"),
        [("repaired", "class or image given by name instead of id", 3)],
    ),
    (
        each("category_id", lambda one: {1: "cat", 2: "dog"}[one], "annotations"),
        [("repaired", "class or image given by name instead of id", 3)],
    ),
    (without("id"), [("repaired", "annotation without an id of its own, numbered", 3)]),
    (repeat_ids, [("repaired", "annotation without an id of its own, numbered", 2)]),
    (without("iscrowd"), []),
    (each("iscrowd", bool, "annotations"), []),
    (each("iscrowd", str, "annotations"), [("repaired", "iscrowd written in an unusual form", 3)]),
    (each("bbox", lambda box: [str(one) for one in box], "annotations"), [("repaired", "box written in an unusual form", 3)]),
    (each("bbox", lambda box: " ".join(map(str, box)), "annotations"), [("repaired", "box written in an unusual form", 3)]),
    (each("bbox", lambda box: [box], "annotations"), [("repaired", "box written in an unusual form", 3)]),
    (
        each("bbox", lambda box: dict(zip(("x", "y", "width", "height"), box, strict=True)), "annotations"),
        [("repaired", "box written in an unusual form", 3)],
    ),
    (
        each("bbox", lambda box: {"xmin": box[0], "ymin": box[1], "xmax": box[0] + box[2], "ymax": box[1] + box[3]}, "annotations"),
        [("repaired", "box written in an unusual form", 3)],
    ),
    (polygons_only, [("repaired", "box taken from its mask", 3)]),
    (lambda content: [row.update(segmentation=[]) for row in content["annotations"]] and None, []),
    (list_twice, [("repaired", "image listed twice", 1)]),
    (each("name", lambda name: f"\ufeff {name} ", "categories"), [("repaired", "class name written in an unusual form", 2)]),
    (lambda content: content["categories"].append(content["categories"][0]), [("repaired", "class listed twice", 1)]),
    (
        lambda content: content["categories"].append({"id": 9, "name": "cat"}),
        [("repaired", "class without objects that shares its name with another", 1)],
    ),
    (
        lambda content: content["categories"].insert(0, {"id": 0, "name": "animal", "supercategory": "none"}),
        [("repaired", "class that only groups all others, as Roboflow writes it", 1)],
    ),
    (each("file_name", lambda name: f".\\{name}", "images"), [("repaired", "image named differently from its file", 2)]),
    (each("file_name", lambda name: f"C:\\me\\photos\\{name}", "images"), [("repaired", "image named differently from its file", 2)]),
    (
        each("file_name", lambda name: f"https://host/x/{name}?token=1", "images"),
        [("repaired", "image named differently from its file", 2)],
    ),
    (each("file_name", lambda name: f"http://[x/{name}", "images"), [("repaired", "image named differently from its file", 2)]),
    (each("file_name", lambda name: name.replace(".jpg", ".PNG"), "images"), [("repaired", "image named differently from its file", 2)]),
    (each("file_name", lambda name: name.removesuffix(".jpg"), "images"), [("repaired", "image named differently from its file", 2)]),
    (each("file_name", str.upper, "images"), [("repaired", "image named differently from its file", 2)]),
    (each("width", str, "images"), []),
    (each("height", lambda _: NAN, "images"), [("repaired", "unusable width and height of an image", 2)]),
]


@pytest.mark.parametrize(("change", "notes"), SAME, ids=[f"{number}" for number in range(len(SAME))])
def test_what_has_one_meaning_is_read_so_and_noted(data: TwoSplits, change: Callable[[Rows], None], notes: list[Any]) -> None:
    change(data.train)
    change(data.val)
    for source in data.build().values():
        assert boxes(source) == TRUTH
        assert noted(source) == notes


class TestAnnotations:
    def test_orphans_are_left_out(self, data: TwoSplits) -> None:
        data.train["annotations"].append(data.train["annotations"][0] | {"id": 9, "image_id": 5})
        found = data.build()["train"]
        assert boxes(found) == TRUTH
        assert noted(found) == [("left out", "box of an image that is not listed", 1)]
        assert found.notes[0].examples == ("annotation 9 in instances_train.json has image_id 5",)

    @pytest.mark.parametrize("start", [0, 1])
    def test_image_ids_that_are_counted_differently_are_refused(self, data: TwoSplits, start: int) -> None:
        for row in data.train["images"]:
            row["id"] += start - 1
        for row in data.train["annotations"]:
            row["image_id"] -= start
        message = rf"train\.json: images are counted from {start}, image_id seems to be from {1 - start}: {2 - 2 * start} is no image's"
        with pytest.raises(DataError, match=message):
            data.build()

    def test_neither_box_nor_mask(self, data: TwoSplits) -> None:
        data.train["annotations"].append({"id": 9, "image_id": 1, "category_id": 1, "bbox": [], "segmentation": []})
        found = data.build()["train"]
        assert boxes(found) == TRUTH
        assert noted(found) == [("left out", "annotation without box and mask", 1)]

    @pytest.mark.parametrize(
        "mask",
        [
            [[2, 1, 6, 1, 6, 4]],
            [2, 1, 6, 1, 6, 4],
            [["2", "1", "6", "1", "6", "4"]],
            [[2, 1], [6, 1], [6, 4]],
            [[[2, 1], [6, 1], [6, 4]]],
            [[{"x": 2, "y": 1}, {"x": 6, "y": 1}, {"x": 6, "y": 4}]],
            {"size": [80, 100], "counts": [161, 3, 77, 3, 77, 3, 77, 3, 80 * 100 - 404]},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("box", [None, [], [0, 0, 0, 0], [NAN, 1, 2, 3]], ids=str)
    def test_the_box_of_a_mask(self, data: TwoSplits, mask: Any, box: Any) -> None:
        data.train["annotations"][0] |= {"segmentation": mask, "bbox": box}
        found = data.build()["train"]
        assert boxes(found)[0] == ("a.jpg", "dog", [2, 1, 4, 3])
        assert ("repaired", "box taken from its mask", 1) in noted(found)

    def test_a_rotated_rectangle(self, data: TwoSplits) -> None:
        data.train["annotations"][0]["attributes"] = {"rotation": 90.0}
        found = data.build()["train"]
        assert boxes(found)[0][2] == pytest.approx([5, 10, 30, 20])
        assert noted(found) == [("repaired", "rotated box, replaced by the upright one around it", 1)]

    def test_an_image_named_by_another_key(self, data: TwoSplits) -> None:
        data.train["images"][0] = {"id": 1, "coco_url": "http://images.example/train/a.jpg"}
        found = data.build()["train"]
        assert boxes(found) == TRUTH
        assert noted(found) == [("repaired", "image named by a key other than file_name", 1)]

    def test_a_file_that_two_names_would_share_is_given_to_none(self, data: TwoSplits) -> None:
        data.train["images"] += [{"id": 3, "file_name": "x/a.jpg"}, {"id": 4, "file_name": "y/c.jpg"}, {"id": 5, "file_name": "z/c.jpg"}]
        draw(data.root / "train", "c.jpg")
        assert [row["file_name"] for row in data.build()["train"].coco["images"]] == ["a.jpg", "b.jpg", "x/a.jpg", "y/c.jpg", "z/c.jpg"]

    def test_one_name_of_two_images_and_two_files_is_refused(self, data: TwoSplits) -> None:
        draw(data.root / "train" / "first", "c.jpg")
        draw(data.root / "train" / "second", "c.jpg")
        data.train["images"] += [{"id": number, "file_name": "c.jpg", "width": 100, "height": 80} for number in (3, 4)]
        with pytest.raises(
            DataError, match=r"two images are named c\.jpg, and there are .*first/c\.jpg and .*second/c\.jpg; write file_name"
        ):
            data.build()

    def test_images_without_an_entry_are_counted(self, data: TwoSplits) -> None:
        draw(data.root / "train", "c.jpg", "d.jpg")
        found = data.build()
        assert noted(found["train"]) == [("left out", "image without an entry", 2)]
        assert noted(found["val"]) == []


class TestClasses:
    def test_val_may_name_fewer(self, data: TwoSplits) -> None:
        data.val["categories"].pop(0)
        data.val["annotations"].pop(1)
        found = data.build()["val"]
        assert boxes(found) == [TRUTH[0], TRUTH[2]]
        assert [row["name"] for row in found.coco["categories"]] == ["cat", "dog"]
        assert noted(found) == [("repaired", "class that train has but the split does not list", 1)]

    def test_other_ids_of_the_same_names(self, data: TwoSplits) -> None:
        for row in data.val["categories"]:
            row["id"] = 3 - row["id"]
        for row in data.val["annotations"]:
            row["category_id"] = 3 - row["category_id"]
        found = data.build()["val"]
        assert boxes(found) == TRUTH
        assert noted(found) == [("repaired", "class with a different id or spelling in train", 2)]

    def test_upper_and_lower_case(self, data: TwoSplits) -> None:
        data.val["categories"][0]["name"] = "CAT"
        assert boxes(data.build()["val"]) == TRUTH

    def test_composed_and_decomposed_accents(self, data: TwoSplits) -> None:
        data.train["categories"][1]["name"], data.val["categories"][1]["name"] = "Ko\u0308ter", "K\u00f6ter"
        assert [name for _, name, _ in boxes(data.build()["val"])] == ["Ko\u0308ter", "cat", "Ko\u0308ter"]

    def test_more_in_val_without_objects(self, data: TwoSplits) -> None:
        data.val["categories"].append({"id": 3, "name": "bird"})
        found = data.build()["val"]
        assert boxes(found) == TRUTH
        assert noted(found) == [("left out", "class without objects that train does not have", 1)]

    def test_numbers_as_names(self, data: TwoSplits) -> None:
        for content in (data.train, data.val):
            content["categories"][0]["name"] = 7
        assert [row["name"] for row in data.build()["val"].coco["categories"]] == ["7", "dog"]

    def test_a_root_with_the_name_of_the_only_class(self, data: TwoSplits) -> None:
        for content in (data.train, data.val):
            content["categories"] = [{"id": 0, "name": "x", "supercategory": "none"}, {"id": 1, "name": "x", "supercategory": "x"}]
            each("category_id", lambda _: 1, "annotations")(content)
        found = data.build()["train"]
        assert [(row["id"], row["name"]) for row in found.coco["categories"]] == [(1, "x")]

    def test_a_root_with_objects_in_one_split_stays(self, data: TwoSplits) -> None:
        for content in (data.train, data.val):
            content["categories"].insert(0, {"id": 0, "name": "animal", "supercategory": "none"})
        data.val["annotations"][0]["category_id"] = 0
        found = data.build()
        assert [row["name"] for row in found["train"].coco["categories"]] == ["animal", "cat", "dog"]
        assert boxes(found["val"])[0][1] == "animal"


def to_corners(content: Rows) -> None:
    for row in content["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]


def to_center(content: Rows) -> None:
    for row in content["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x + w / 2, y + h / 2, w, h]


def to_fractions(content: Rows) -> None:
    for row in content["annotations"]:
        row["bbox"] = [one / side for one, side in zip(row["bbox"], (100, 80, 100, 80), strict=True)]


def with_area(content: Rows) -> None:
    for row in content["annotations"]:
        row["area"] = row["bbox"][2] * row["bbox"][3]


def with_masks(content: Rows) -> None:
    for row in content["annotations"]:
        row["segmentation"] = [polygon(row["bbox"])]


def wide(content: Rows) -> None:
    """Five objects in the lower right, so that corners read as sizes leave the image."""
    content["annotations"] += [{"id": 10 + i, "image_id": 1, "category_id": 1, "bbox": [55 + i, 50, 20, 20]} for i in range(5)]


class TestTwoSplits:
    def test_an_image_in_both_is_noted_in_the_later_one(self, tmp_path: Path) -> None:
        draw(tmp_path / "images")
        for split in ("train", "val"):
            content = rows()
            if split == "val":
                content["images"] = content["images"][:1]
                content["annotations"] = content["annotations"][:1]
                content["images"][0]["file_name"] = "./a.jpg"
            save(tmp_path / f"annotations/instances_{split}.json", content)
        found = coco.build(tmp_path, root=str(tmp_path))
        (note,) = (note for note in found["val"].notes if note.kind == "image in two splits")
        assert (note.action, note.count, note.images) == ("assumed", 1, ("a.jpg",))
        assert not [note for note in found["train"].notes if note.kind == "image in two splits"]


class TestUnits:
    @pytest.mark.parametrize(
        ("evidence", "change", "option", "why"),
        [
            (with_area, to_corners, "xyxy", "3 of 3 boxes do not have their area"),
            (with_masks, to_corners, "xyxy", "3 of 3 boxes do not fit their masks"),
            (wide, to_corners, "xyxy", "7 of 8 boxes leave their images"),
            (with_masks, to_center, "cxcywh", "3 of 3 boxes do not fit their masks"),
            (with_area, to_fractions, "fractions", "3 of 3 boxes have no number above 1"),
        ],
    )
    def test_another_unit_is_refused_with_the_option_that_reads_it(
        self, data: TwoSplits, evidence: Callable[[Rows], None], change: Callable[[Rows], None], option: str, why: str
    ) -> None:
        for content in (data.train, data.val):
            evidence(content)
        truth = [row["bbox"] for row in copy.deepcopy(data.train)["annotations"]]
        change(data.train)
        change(data.val)
        with pytest.raises(DataError, match=rf"instances_train\.json: {why}.*set data\.boxes: {option} to") as error:
            data.build()
        assert "\n" not in str(error.value)
        assert [row["bbox"] for row in data.build(boxes=option)["train"].coco["annotations"]] == [pytest.approx(box) for box in truth]
        assert [row["bbox"] for row in data.build(boxes="xywh")["train"].coco["annotations"]] == [
            pytest.approx(row["bbox"]) for row in data.train["annotations"]
        ]

    @pytest.mark.parametrize("evidence", [with_area, with_masks, wide])
    def test_cocos_own_unit_is_taken_in_silence(self, data: TwoSplits, evidence: Callable[[Rows], None]) -> None:
        evidence(data.train)
        found = data.build()["train"]
        assert boxes(found)[:3] == TRUTH
        assert noted(found) == []

    def test_a_single_doubtful_box_is_noted(self, data: TwoSplits) -> None:
        data.train["annotations"][1]["bbox"] = [50, 40, 80, 60]
        assert noted(data.build()["train"]) == [
            ("assumed", "box that would fit its image as corners or center, read as x, y, width, height in px", 1)
        ]

    @pytest.mark.parametrize("size", [(100, 80), (80, 100), (50, 40), (200, 40), (100, 1.5), (1.5, 80)])
    def test_fractions_of_one_image_are_noted_whatever_size_they_were_made_with(self, data: TwoSplits, size: tuple[float, float]) -> None:
        for row in data.train["annotations"][1:]:
            row["bbox"] = [one / side for one, side in zip(row["bbox"], size * 2, strict=True)]
        kind = "box below 2 px at an edge, perhaps a fraction, read as x, y, width, height in px"
        assert noted(data.build()["train"]) == [("assumed", kind, 2)]

    @pytest.mark.parametrize("box", [[0, 3, 2, 40], [2, 2, 1, 1], [0.5, 0.5, 2.5, 2.5], [2.5, 0.5, 1.5, 30]])
    def test_a_thin_box_is_no_doubt(self, data: TwoSplits, box: list[float]) -> None:
        data.train["annotations"][1]["bbox"] = box
        assert noted(data.build()["train"]) == []

    def test_the_corners_of_a_single_box_are_noted_if_its_area_tells(self, data: TwoSplits) -> None:
        for row in data.train["annotations"]:
            row["area"] = row["bbox"][2] * row["bbox"][3]
        data.train["annotations"][0]["bbox"] = [10, 5, 30, 35]  # 20 wide, 30 high
        assert noted(data.build()["train"]) == [("assumed", "box with the area of its corners, read as x, y, width, height in px", 1)]

    def test_a_large_box_is_no_doubt(self, data: TwoSplits) -> None:
        data.train["annotations"][1]["bbox"] = [-20, 40, 180, 90]
        assert noted(data.build()["train"]) == []

    @pytest.mark.parametrize(("stated", "box"), [((80, 100), [10, 5, 80, 60]), ((64, 48), [10, 5, 60, 45])])
    def test_a_wrong_size_is_no_evidence_of_another_form(self, data: TwoSplits, stated: tuple[int, int], box: list[float]) -> None:
        for row in data.train["images"]:
            row |= dict(zip(("width", "height"), stated, strict=True))
        data.train["annotations"][0]["bbox"] = box
        assert noted(data.build()["train"]) == []

    def test_polygons_in_fractions_are_scaled_too(self, data: TwoSplits) -> None:
        for content in (data.train, data.val):
            to_fractions(content)
            with_masks(content)
        row = data.build(boxes="fractions")["train"].coco["annotations"][0]
        assert row["segmentation"][0] == pytest.approx([10, 5, 30, 5, 30, 35, 10, 35])

    @pytest.mark.parametrize(
        ("changes", "option"),
        [([], "fractions"), ([to_center], "cxcywh_fractions"), ([to_corners], "xyxy_fractions")],
        ids=["size", "center", "corners"],
    )
    @pytest.mark.parametrize("share", [1.0, 0.5])
    def test_areas_in_fractions_are_scaled_by_both_sides(
        self, data: TwoSplits, changes: list[Callable[[Rows], None]], option: str, share: float
    ) -> None:
        """Of the boxes, or of masks that cover half of them."""
        for content in (data.train, data.val):
            for change in (*changes, to_fractions):
                change(content)
            for row, (*_, box) in zip(content["annotations"], TRUTH, strict=True):
                row["area"] = share * box[2] * box[3] / (100 * 80)
        rows = data.build(boxes=option)["train"].coco["annotations"]
        assert [row["area"] for row in rows] == pytest.approx([share * box[2] * box[3] for *_, box in TRUTH])

    def test_areas_that_are_neither_are_replaced_by_the_boxes(self, data: TwoSplits) -> None:
        for content in (data.train, data.val):
            to_fractions(content)
            for row in content["annotations"]:
                row["area"] = 0.5
        assert not [row for row in data.build(boxes="fractions")["train"].coco["annotations"] if "area" in row]

    def test_areas_in_px_stay_as_they_are(self, data: TwoSplits) -> None:
        for content in (data.train, data.val):
            with_area(content)
            to_fractions(content)
        assert [row["area"] for row in data.build(boxes="fractions")["train"].coco["annotations"]] == [600, 600, 525]

    def test_a_box_taken_from_a_mask_in_px_is_not_scaled(self, data: TwoSplits) -> None:
        code = masks.encode(np.ones((30, 20), bool), (80, 100), 10, 5)
        for content in (data.train, data.val):
            to_fractions(content)
            content["annotations"][0] |= {"bbox": None, "segmentation": code}
            content["annotations"][1] |= {"bbox": [], "segmentation": [polygon([50, 40, 30, 20])]}
            content["annotations"][2] |= {"bbox": [], "segmentation": [polygon([0.6, 0.125, 0.35, 0.1875])]}
        found = data.build(boxes="fractions")["train"]
        expect(found)

    @pytest.mark.parametrize("form", ["fractions", "xyxy_fractions"])
    def test_a_box_in_fractions_whose_keys_say_what_each_number_is_is_scaled(self, data: TwoSplits, form: str) -> None:
        for content in (data.train, data.val):
            to_fractions(content)
            for row in content["annotations"]:
                row["bbox"] = dict(zip(("x", "y", "width", "height"), row["bbox"], strict=True))
        expect(data.build(boxes=form)["train"])

    @pytest.mark.parametrize("mask", [[[0.1, None]], [None], ["x"], [["x"] * 6], [[0.1, 0.2]], {"size": 5, "counts": "x"}, [[True] * 6]])
    def test_masks_that_mean_nothing_are_left_as_they_are_for_cleaning_to_note(self, data: TwoSplits, mask: Any) -> None:
        for content in (data.train, data.val):
            to_fractions(content)
            content["annotations"][0]["segmentation"] = mask
        found = data.build(boxes="fractions")["train"]
        assert found.coco["annotations"][0]["segmentation"] == mask
        expect(found)

    def test_the_usable_parts_of_a_mask_are_read_whatever_the_others_are(self, data: TwoSplits) -> None:
        part = polygon([10, 5, 20, 30])
        for content in (data.train, data.val):
            content["annotations"][0] |= {"bbox": None, "segmentation": [[*map(str, part)], ["x", None]]}
        found = data.build()["train"]
        assert found.coco["annotations"][0]["segmentation"] == [part, ["x", None]]
        assert boxes(found) == TRUTH

    def test_an_unknown_unit(self, data: TwoSplits) -> None:
        with pytest.raises(DataError, match=r"data\.boxes is 'px'; choose from xywh, xyxy"):
            data.build(boxes="px")


REFUSED: list[tuple[Callable[[Rows], Any], str]] = [
    (lambda c: c["images"][0].update(id=True), "image number 1 has id True"),
    (lambda c: c["images"][0].update(id=NAN), "image number 1 has id nan"),
    (lambda c: c["images"][0].update(id=1.5), "image number 1 has id 1.5"),
    (lambda c: c["images"][0].pop("id"), "image number 1 has id None"),
    (lambda c: c["images"][1].update(id="1"), "image ids 1 and '1' may be one or two"),
    (lambda c: c["images"][1].update(id=1), "two images have the id 1: a.jpg and b.jpg"),
    (lambda c: c["images"][0].pop("file_name"), "image 1 has no file_name"),
    (lambda c: c["images"][0].update(file_name="a" * 300), "that no file can have"),
    (lambda c: c["annotations"][0].update(id=float("inf")), "annotation number 1 has id inf"),
    (lambda c: c["annotations"][0].update(category_id=8), "annotation 1 has unknown category_id 8; known: 1, 2"),
    (lambda c: c["annotations"][0].update(category_id=None), "annotation 1 has unknown category_id None"),
    (lambda c: c["annotations"][0].update(iscrowd=2), "annotation 1 has iscrowd 2; write 0 or 1"),
    (each("image_id", lambda one: one + 10, "annotations"), "no image has the image_id of any annotation, the first 11"),
    (lambda c: c["categories"][0].update(name="dog"), "two categories are named 'dog' (ids 1 and 2)"),
    (lambda c: c["categories"][1].update(id=1), "two categories have the id 1: cat and dog"),
    (lambda c: c["categories"][0].update(name=" "), "category 1 has no name"),
    (lambda c: c["categories"][0].update(name=NAN), "category 1 has no name but nan"),
    (lambda c: c["categories"][0].update(name="\ud800"), "a name that is not text"),
    (lambda c: c["categories"].clear(), "no categories"),
    (lambda c: c.pop("annotations"), "no 'annotations' in it"),
    (lambda c: c.update(annotations={}), "'annotations' should be a list of objects"),
    (lambda c: c.update(annotations=[{"image_id": 1, "id": 1, "segments_info": []}]), "a COCO panoptic file"),
    (lambda c: c.update(annotations=[{"image_id": 1, "id": 1, "caption": "x"}]), "a COCO captions file"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_has_two_meanings_is_refused(data: TwoSplits, spoil: Callable[[Rows], Any], message: str) -> None:
    spoil(data.train)
    with pytest.raises(DataError) as error:
        data.build()
    assert message in str(error.value)
    assert "instances_train.json: " in str(error.value)
    assert "\n" not in str(error.value)


def test_objects_of_a_class_that_train_lacks(data: TwoSplits) -> None:
    data.train["categories"].pop(0)
    data.train["annotations"].pop(1)
    with pytest.raises(DataError, match=r"instances_val\.json: 1 objects of class 'cat', which .*instances_train\.json does not have"):
        data.build()


class TestFiles:
    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_byte_order_marks(self, data: TwoSplits, encoding: str) -> None:
        data.build()
        file = data.root / "annotations/instances_train.json"
        file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
        found = coco.build(data.root, root=str(data.root))["train"]
        assert boxes(found) == TRUTH
        assert noted(found) == [("repaired", "text in an unusual encoding", 1)]

    def test_names_in_a_chinese_encoding_are_refused(self, data: TwoSplits) -> None:
        data.train["categories"][0]["name"] = data.val["categories"][0]["name"] = "红"
        data.build()
        file = data.root / "annotations/instances_train.json"
        file.write_bytes(json.dumps(data.train, ensure_ascii=False).encode("gbk"))
        with pytest.raises(DataError, match=r"instances_train\.json: neither UTF-8 nor Windows-1252 text; save it as UTF-8"):
            coco.build(data.root, root=str(data.root))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{} junk", "not JSON"),
            ("[]", "not a COCO file but a list"),
            ('[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "a list of results, which detectors write"),
            ('[{"data": {"image": "a.jpg"}}]', "Label Studio's own export"),
            ('{"shapes": [], "imagePath": "a.jpg"}', "labelme's file of one image"),
        ],
    )
    def test_what_is_not_coco(self, data: TwoSplits, text: str, message: str) -> None:
        save(data.root / "annotations/instances_train.json", text)
        with pytest.raises(DataError, match=message) as error:
            coco.build(data.root, root=str(data.root))
        assert "instances_train.json: " in str(error.value)
        assert "\n" not in str(error.value)


class TestLayouts:
    @pytest.mark.parametrize(
        ("annotations", "images"),
        [
            ("annotations/instances_Train.json", "images/Train"),
            ("annotations/instances_train2017.json", "train2017"),
            ("Annotations/Instances_Train.JSON", "Images/TRAIN"),
            ("train/_annotations.coco.json", "train"),
            ("train/labels.json", "train/data"),
            ("train/annotations.json", "train/images"),
            ("labels/training.json", "images/training"),
            ("coco_train.json", "train_images"),
            ("deep/annotations/instances_train.json", "deep/images"),
            ("trainSet.json", "images"),
        ],
    )
    def test_places(self, tmp_path: Path, annotations: str, images: str) -> None:
        save(tmp_path / "set" / annotations, rows())
        draw(tmp_path / "set" / images)
        found = coco.build(tmp_path, root=str(tmp_path / "set"))
        assert list(found) == ["train"]
        assert found["train"].images == tmp_path / "set" / images
        assert boxes(found["train"]) == TRUTH

    @pytest.mark.parametrize("name", ["annotations/instances_default.json", "result.json", "_annotations.coco.json", "labels_all.json"])
    def test_a_single_file_is_train(self, tmp_path: Path, name: str) -> None:
        save(tmp_path / "set" / name, rows())
        save(tmp_path / "set/notes.json", {"categories": []})
        draw(tmp_path / "set/images")
        found = coco.build(tmp_path, root=str(tmp_path / "set"))
        assert {split: boxes(source) for split, source in found.items()} == {"train": TRUTH}

    def test_the_images_folder_or_one_split_as_root(self, tmp_path: Path) -> None:
        save(tmp_path / "set/annotations/instances_train.json", rows())
        draw(tmp_path / "set/images/train")
        for root in ("set", "set/images", "set/annotations"):
            found = coco.build(tmp_path, root=str(tmp_path / root))["train"]
            assert found.images.resolve() == tmp_path / "set/images/train"
        save(tmp_path / "robo/test/_annotations.coco.json", rows())
        draw(tmp_path / "robo/test")
        assert list(coco.build(tmp_path, root=str(tmp_path / "robo/test"))) == ["test"]

    def test_instances_win_over_other_tasks(self, tmp_path: Path) -> None:
        for name in ("captions_train", "instances_train", "person_keypoints_train"):
            save(tmp_path / f"set/annotations/{name}.json", rows() | {"info": name})
        draw(tmp_path / "set/images")
        found = coco.build(tmp_path, root=str(tmp_path / "set"))["train"]
        assert noted(found) == [("left out", "annotation file that is not used", 2)]

    def test_a_split_without_annotations_is_left_out(self, data: TwoSplits) -> None:
        for name in ("image_info_test2017", "image_info_test-dev2017"):
            save(data.root / f"annotations/{name}.json", {"info": name, "images": data.train["images"], "categories": []})
        found = data.build()
        assert [*found] == ["train", "val"]
        assert noted(found["train"]) == [("left out", "split whose file has no annotations", 1)]

    def test_a_damaged_file_of_a_split_is_refused(self, data: TwoSplits) -> None:
        save(data.root / "annotations/instances_test.json", '{"images": [')
        with pytest.raises(DataError, match=r"instances_test\.json: not JSON"):
            data.build()

    def test_two_files_for_one_split_are_refused(self, tmp_path: Path) -> None:
        for year in (2014, 2017):
            save(tmp_path / f"set/annotations/instances_train{year}.json", rows() | {"info": year})
        draw(tmp_path / "set/images")
        with pytest.raises(DataError, match=r"instances_train2014\.json and .*instances_train2017\.json: both could be the train"):
            coco.build(tmp_path, root=str(tmp_path / "set"))

    def test_the_same_names_in_every_split_stay_apart(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            save(tmp_path / f"set/annotations/instances_{split}.json", rows())
            draw(tmp_path / f"set/images/{split}/batch1")
        for split, source in coco.build(tmp_path, root=str(tmp_path / "set")).items():
            assert {(source.images / row["file_name"]).parent for row in source.coco["images"]} == {tmp_path / f"set/images/{split}/batch1"}

    def test_images_spread_over_folders(self, tmp_path: Path) -> None:
        save(tmp_path / "set/annotations/instances_train.json", rows())
        draw(tmp_path / "set/images/train/batch1", "a.jpg")
        draw(tmp_path / "set/images/train/batch2", "b.jpg")
        source = coco.build(tmp_path, root=str(tmp_path / "set"))["train"]
        assert source.images == tmp_path / "set/images/train"
        assert [row["file_name"] for row in source.coco["images"]] == ["batch1/a.jpg", "batch2/b.jpg"]
