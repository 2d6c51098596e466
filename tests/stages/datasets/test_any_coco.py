"""Any COCO data set with any faults: it is read as it is meant, or notes or a refusal account for every difference."""

import copy
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import drawn_data
import globox
import hypothesis
import pytest
from drawn_data import DrawnObject
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from deploy.errors import DataError
from stages.datasets import coco

Rows = dict[str, Any]
Fault = Callable[[Rows, int], None]
"""Spoils the content of one file; the number chooses a row."""

SIZES = ((100, 80), (64, 64), (40, 90))
PLACES = (("annotations/instances_{}.json", "images/{}"), ("{}/_annotations.coco.json", "{}"))


def on(name: str, key: str, change: Callable[[Any], Any], *, every: bool = True) -> Fault:
    """Change a key of every row of a list, or of one."""

    def apply(content: Rows, seed: int) -> None:
        rows = content[name]
        for row in rows if every else rows[seed % len(rows) : seed % len(rows) + 1] if rows else []:
            row[key] = change(row.get(key))

    return apply


def ids(change: Callable[[Any], Any]) -> Fault:
    def apply(content: Rows, seed: int) -> None:
        for name, key in (("images", "image_id"), ("categories", "category_id")):
            on(name, "id", change)(content, seed)
            on("annotations", key, change)(content, seed)

    return apply


def corners(content: Rows, seed: int) -> None:
    for row in content["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]


def corners_of_one(content: Rows, seed: int) -> None:
    row = content["annotations"][seed % len(content["annotations"])]
    x, y, w, h = row["bbox"]
    row["bbox"] = [x, y, x + w, y + h]


def fractions(content: Rows, seed: int) -> None:
    sizes = {row["id"]: (row["width"], row["height"]) for row in content["images"]}
    for row in content["annotations"]:
        row["bbox"] = [one / side for one, side in zip(row["bbox"], sizes[row["image_id"]] * 2, strict=True)]


def fractions_of_some(content: Rows, seed: int) -> None:
    """Of one image's boxes."""
    image = content["images"][seed % len(content["images"])]
    rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
    fractions({"images": [image], "annotations": rows}, seed)


def sized(change: Callable[[int, int], tuple[int, int]]) -> Fault:
    """Every other image, or all, with a size that is not its file's."""

    def apply(content: Rows, seed: int) -> None:
        for row in content["images"][:: 1 + seed % 2]:
            row["width"], row["height"] = change(row["width"], row["height"])

    return apply


def masks_only(content: Rows, seed: int) -> None:
    for row in content["annotations"]:
        x, y, w, h = row.pop("bbox")
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def list_again(content: Rows, seed: int) -> None:
    content["images"].append(content["images"][seed % len(content["images"])] | {"id": 990})


def root(content: Rows, seed: int) -> None:
    for row in content["categories"]:
        row["supercategory"] = "thing"
    content["categories"].insert(0, {"id": -1, "name": "thing", "supercategory": "none"})


def used_categories(content: Rows, seed: int) -> None:
    used = {row["category_id"] for row in content["annotations"]}
    content["categories"] = [row for row in content["categories"] if row["id"] in used]


def spelled(content: Rows, seed: int) -> None:
    """Val has its classes in upper case; in train, these would be the names."""
    if content["info"]["split"] == "val":
        on("categories", "name", str.upper)(content, seed)


def drop(key: str, name: str) -> Fault:
    def apply(content: Rows, seed: int) -> None:
        content[name] and content[name][seed % len(content[name])].pop(key, None)

    return apply


ODD: tuple[Any, ...] = (None, True, float("nan"), float("inf"), "", "x", "1", 1.5, -1, 10**30, [], {}, [1], "NaN")
VALID = {("categories", "name"): ("x", "1", "NaN", 1.5, -1, 10**30), ("annotations", "category_id"): ("1",)}
"""What is odd, but a name or the id of a class."""

FAULTS: dict[str, Fault] = {
    "ids as text": ids(str),
    "ids as fractions": ids(float),
    "ids of letters": ids(lambda one: f"n{one}"),
    "other ids": ids(lambda one: one + 100),
    "corners": corners,
    "corners of one": corners_of_one,
    "fractions": fractions,
    "fractions of some": fractions_of_some,
    "half the size": sized(lambda width, height: (width // 2, height // 2)),
    "twice as high": sized(lambda width, height: (width, height * 2)),
    "sides exchanged": sized(lambda width, height: (height, width)),
    "masks only": masks_only,
    "image listed twice": list_again,
    "root category": root,
    "used categories": used_categories,
    "spelled differently": spelled,
    "backslashes": on("images", "file_name", lambda name: f"images\\{name}"),
    "absolute paths": on("images", "file_name", lambda name: f"/home/me/{name}"),
    "upper case": on("images", "file_name", str.upper),
    "boxes as texts": on("annotations", "bbox", lambda box: [str(one) for one in box]),
    "boxes as one text": on("annotations", "bbox", lambda box: " ".join(map(str, box))),
    "boxes with keys": on("annotations", "bbox", lambda box: dict(zip(("x", "y", "width", "height"), box, strict=True))),
} | {
    f"no {name}.{key}": drop(key, name)
    for name, keys in (
        ("images", ("id", "file_name", "width")),
        ("annotations", ("id", "image_id", "category_id", "bbox", "iscrowd", "area")),
        ("categories", ("id", "name")),
    )
    for key in keys
}
WHOLE = tuple(FAULTS)
"""Faults that tools make; the others below put an odd value into one row."""

for _name, _keys in (
    ("images", ("id", "file_name", "width", "height")),
    ("annotations", ("id", "image_id", "category_id", "bbox", "segmentation", "iscrowd", "area")),
    ("categories", ("id", "name")),
):
    for _key in _keys:
        for _odd in ODD:
            if _odd not in VALID.get((_name, _key), ()):
                FAULTS[f"{_name}.{_key}: {_odd!r}"] = on(_name, _key, lambda _, odd=_odd: copy.deepcopy(odd), every=False)  # type: ignore[misc]


Drawn = dict[str, Rows]
"""The content of each split's file."""


@st.composite
def data_sets(draw: st.DrawFn) -> Drawn:
    """Up to three images per split and three classes, boxes inside their images, areas as COCO has them."""
    classes = [{"id": n * 2 + 1, "name": f"class{n}"} for n in range(draw(st.integers(1, 3)))]
    return {split: draw(contents(split, classes)) for split in ("train", "val")}


@st.composite
def contents(draw: st.DrawFn, split: str, classes: list[Rows]) -> Rows:
    images = [_image(split, number, draw(st.sampled_from(SIZES))) for number in range(draw(st.integers(1, 3)))]
    annotations = []
    for number in range(draw(st.integers(1, 6))):
        image, kind = draw(st.sampled_from(images)), draw(st.sampled_from(classes))
        w, h = draw(st.integers(3, image["width"] - 4)), draw(st.integers(3, image["height"] - 4))
        box = [draw(st.integers(0, image["width"] - w)), draw(st.integers(0, image["height"] - h)), w, h]
        row = {"id": number + 1, "image_id": image["id"], "category_id": kind["id"], "bbox": box, "area": w * h, "iscrowd": 0}
        annotations.append(row)
    return {"info": {"split": split}, "images": images, "annotations": annotations, "categories": copy.deepcopy(classes)}


def _image(split: str, number: int, size: tuple[int, int]) -> Rows:
    return {"id": 10 + number, "file_name": f"{split}{number}.png", "width": size[0], "height": size[1]}


def by_globox(content: Rows, file: Path) -> None:
    """The same data, written by a library that is not ours."""
    names = {row["id"]: row["name"] for row in content["categories"]}
    found = globox.AnnotationSet()
    for image in content["images"]:
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        boxes = [
            globox.BoundingBox.create(label=names[row["category_id"]], coords=tuple(row["bbox"]), box_format=globox.BoxFormat.LTWH)
            for row in rows
        ]
        found.add(globox.Annotation(image["file_name"], (image["width"], image["height"]), boxes))
    numbers = {row["file_name"]: row["id"] for row in content["images"]}
    found.save_coco(file, label_to_id={name: number for number, name in names.items()}, imageid_to_id=numbers)


def truth(split: str, path: Path) -> list[DrawnObject]:
    """Every object, as pycocotools reads the file."""
    with redirect_stdout(io.StringIO()):
        read = COCO(str(path))
    rows = read.loadAnns(read.getAnnIds())
    return [
        DrawnObject(split, read.imgs[row["image_id"]]["file_name"], read.cats[row["category_id"]]["name"], tuple(row["bbox"]))
        for row in rows
    ]


CORNERS = ("corners", "corners of one")

Chosen = list[tuple[str, int, tuple[str, ...]]]
"""Name of a fault, number of the row that it chooses, and the splits that it spoils."""


def can_be_told(faults: Chosen) -> bool:
    """Whether the file still shows which boxes are corners: with neither area nor mask, or converted twice, they are like any other."""
    names = {name for name, _, _ in faults}
    converted = [split for name, _, splits in faults if name in CORNERS for split in splits]
    return not (converted and any("area" in name for name in names)) and len(converted) == len(set(converted))


def check(content: Drawn, faults: Chosen, places: tuple[str, str], *, foreign: bool) -> None:
    with drawn_data.memory_folder() as folder:
        files = {split: folder / places[0].format(split) for split in content}
        meant = []
        for split, file in files.items():
            write(content[split], file, folder / places[1].format(split), foreign=foreign)
            meant += truth(split, file)
        for name, seed, splits in faults:
            for split in splits:
                spoil(files[split], split, FAULTS[name], seed)
        try:
            found, notes = drawn_data.read(coco.build(folder, root=str(folder)))
        except DataError as error:
            refusal: str | None = str(error)
        else:
            refusal = None
        if refusal is not None:
            assert "\n" not in refusal
            assert faults, refusal
            return
        assert faults or not notes
        assert drawn_data.unaccounted(meant, found, notes) == []


def write(content: Rows, file: Path, images: Path, *, foreign: bool) -> None:
    for place in (file.parent, images):
        place.mkdir(parents=True, exist_ok=True)
    for row in content["images"]:
        (images / row["file_name"]).write_bytes(drawn_data.png(row["width"], row["height"]))
    if foreign:
        by_globox(content, file)
    else:
        file.write_text(json.dumps(content), encoding="utf-8")


def spoil(file: Path, split: str, fault: Fault, seed: int) -> None:
    changed = {"info": {"split": split}} | json.loads(file.read_bytes())
    try:
        fault(changed, seed)
    except (TypeError, ValueError, KeyError, AttributeError):
        hypothesis.reject()  # a fault that needs what an earlier one took away
    file.write_text(json.dumps(changed), encoding="utf-8")


SPLITS = st.sampled_from([("train",), ("val",), ("train", "val")])
EITHER = st.one_of(st.sampled_from(WHOLE), st.sampled_from(tuple(FAULTS)))
FAULTY = st.lists(st.tuples(EITHER, st.integers(0, 9), SPLITS), max_size=3)
ANY = {"content": data_sets(), "faults": FAULTY, "places": st.sampled_from(PLACES), "foreign": st.booleans()}
QUIET = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


def sample(split: str) -> Rows:
    """Three images with six objects of three classes."""
    boxes = [[10, 5, 20, 30], [50, 40, 30, 20], [2, 3, 60, 40], [30, 20, 25, 25], [5, 30, 20, 40], [60, 10, 35, 15]]
    rows: list[Rows] = [
        {
            "id": number + 1,
            "image_id": 10 + number % 3,
            "category_id": (1, 3, 5)[number // 2],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, box in enumerate(boxes)
    ]
    images = [_image(split, number, (100, 80)) for number in range(3)]
    categories = [{"id": number, "name": f"class{number}"} for number in (1, 3, 5)]
    return {"info": {"split": split}, "images": images, "annotations": rows, "categories": categories}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault(name: str) -> None:
    for splits in (("train",), ("val",), ("train", "val")):
        for row in (0, 1, 5):
            check({split: sample(split) for split in ("train", "val")}, [(name, row, splits)], PLACES[row % 2], foreign=False)


@settings(QUIET, max_examples=100, derandomize=True)
@given(**ANY)
def test_nothing_is_silently_wrong(content: Drawn, faults: Chosen, places: tuple[str, str], foreign: bool) -> None:
    hypothesis.assume(can_be_told(faults))
    check(content, faults, places, foreign=foreign)


@pytest.mark.slow
@settings(QUIET, max_examples=3400)
@given(**ANY)
def test_nothing_is_silently_wrong_in_many(content: Drawn, faults: Chosen, places: tuple[str, str], foreign: bool) -> None:
    hypothesis.assume(can_be_told(faults))
    check(content, faults, places, foreign=foreign)
