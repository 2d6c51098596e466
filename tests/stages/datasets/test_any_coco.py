"""Any COCO data set with any faults: it is read as it is meant, or a note or a refusal says otherwise."""

import copy
import io
import json
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from deploy.errors import DataError
from stages.datasets import Source, coco
from stages.datasets.cleaning import rules

Rows = dict[str, Any]
Fault = Callable[[Rows, int], None]
WIDTH, HEIGHT = 100, 80


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


def fractions(content: Rows, seed: int) -> None:
    for row in content["annotations"]:
        row["bbox"] = [one / side for one, side in zip(row["bbox"], (WIDTH, HEIGHT) * 2, strict=True)]


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


def drop(key: str, name: str) -> Fault:
    def apply(content: Rows, seed: int) -> None:
        content[name] and content[name][seed % len(content[name])].pop(key, None)

    return apply


ODD: tuple[Any, ...] = (None, True, float("nan"), float("inf"), "", "x", "1", 1.5, -1, 10**30, [], {}, [1], "NaN")
FAULTS: list[Fault] = [
    ids(str),
    ids(float),
    ids(lambda one: f"n{one}"),
    corners,
    fractions,
    masks_only,
    list_again,
    root,
    on("images", "file_name", lambda name: f"images\\{name}"),
    on("images", "file_name", lambda name: f"/home/me/{name}"),
    on("images", "file_name", str.upper),
    on("annotations", "bbox", lambda box: [str(one) for one in box]),
    on("annotations", "bbox", lambda box: dict(zip(("x", "y", "width", "height"), box, strict=True))),
    *(drop(key, "images") for key in ("id", "file_name", "width")),
    *(drop(key, "annotations") for key in ("id", "image_id", "category_id", "bbox", "iscrowd")),
    *(drop(key, "categories") for key in ("id", "name")),
    *(
        on(name, key, lambda _, odd=odd: copy.deepcopy(odd), every=False)  # type: ignore[misc]
        for odd in ODD
        for name, key in (
            ("images", "id"),
            ("images", "file_name"),
            ("images", "height"),
            ("annotations", "id"),
            ("annotations", "image_id"),
            ("annotations", "category_id"),
            ("annotations", "bbox"),
            ("annotations", "segmentation"),
            ("annotations", "iscrowd"),
            ("annotations", "area"),
            ("categories", "id"),
            ("categories", "name"),
        )
    ),
]


@st.composite
def data_sets(draw: st.DrawFn) -> Rows:
    """Up to three images and classes, boxes inside their images, areas as COCO has them."""
    images = [{"id": 10 + n, "file_name": f"im{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(draw(st.integers(1, 3)))]
    classes = [{"id": n * 2 + 1, "name": f"class{n}"} for n in range(draw(st.integers(1, 3)))]
    annotations = []
    for number in range(draw(st.integers(1, 6))):
        w, h = draw(st.integers(3, 60)), draw(st.integers(3, 60))
        box = [draw(st.integers(0, WIDTH - w)), draw(st.integers(0, HEIGHT - h)), w, h]
        place = {"image_id": draw(st.sampled_from(images))["id"], "category_id": draw(st.sampled_from(classes))["id"]}
        annotations.append({"id": number + 1, **place, "bbox": box, "area": w * h, "iscrowd": 0})
    return {"images": images, "annotations": annotations, "categories": classes}


def truth(path: Path) -> list[tuple[str, str, tuple[float, ...]]]:
    """File name, class and box of every object, as pycocotools reads the file."""
    with redirect_stdout(io.StringIO()):
        read = COCO(str(path))
    objects = read.loadAnns(read.getAnnIds())
    return sorted(
        (read.imgs[row["image_id"]]["file_name"], read.cats[row["category_id"]]["name"], tuple(map(float, row["bbox"]))) for row in objects
    )


def objects(source: Source) -> list[tuple[str, str, tuple[float, ...]]]:
    files = {row["id"]: row["file_name"] for row in source.coco["images"]}
    names = {row["id"]: row["name"] for row in source.coco["categories"]}
    rows = source.coco["annotations"]
    return sorted((files[row["image_id"]], names[row["category_id"]], numbers(row["bbox"])) for row in rows)


def numbers(box: Any) -> tuple[float, ...]:
    """A box's numbers; none for one that cleaning will report and leave out."""
    plain = isinstance(box, list) and all(isinstance(one, int | float) for one in box)
    return tuple(map(float, box)) if plain else ()


def same(found: list[tuple[str, str, tuple[float, ...]]], meant: list[tuple[str, str, tuple[float, ...]]]) -> bool:
    """Whether both have the same objects, to 1e-6 px."""
    alike = [a[:2] == b[:2] and a[2] == pytest.approx(b[2], abs=1e-6) for a, b in zip(found, meant, strict=False)]
    return len(found) == len(meant) and all(alike)


def check(content: Rows, faults: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "annotations/instances_train.json")
        file.parent.mkdir()
        Path(folder, "images").mkdir()
        for row in content["images"]:
            Image.new("L", (WIDTH, HEIGHT)).save(Path(folder, "images", row["file_name"]))
        file.write_text(json.dumps(content), encoding="utf-8")
        meant = truth(file)
        changed = copy.deepcopy(content)
        for number, seed in faults:
            try:
                FAULTS[number](changed, seed)
            except (TypeError, ValueError, KeyError, AttributeError):
                return  # a fault that needs what an earlier one took away
        file.write_text(json.dumps(changed), encoding="utf-8")
        try:
            found = coco.build(Path(folder), root=folder)
            rules.check_splits(found, ("train",))
        except DataError as error:
            refusal: str | None = str(error)
        else:
            refusal = None
        if refusal is not None:
            assert "\n" not in refusal
            assert faults
            return
        source = found["train"]
        if not same(objects(source), meant):
            box_left_to_cleaning = any(box == () or len(box) != 4 or not min(box[2:]) > 0 for _, _, box in objects(source))
            renamed = {row["name"] for row in source.coco["categories"]} - {row["name"] for row in content["categories"]}
            missing = any(not (source.images / row["file_name"]).is_file() for row in source.coco["images"])
            assert source.notes or box_left_to_cleaning or renamed or missing


FAULTY = st.lists(st.tuples(st.integers(0, len(FAULTS) - 1), st.integers(0, 9)), max_size=3)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data_sets(), FAULTY)
def test_nothing_is_silently_wrong(content: Rows, faults: list[tuple[int, int]]) -> None:
    check(content, faults)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data_sets(), FAULTY)
def test_nothing_is_silently_wrong_in_ten_thousand(content: Rows, faults: list[tuple[int, int]]) -> None:
    check(content, faults)
