"""Data sets as annotation tools export them, through the command line: boxes, classes, printed notes, exit code.

Every case starts from the same objects in one of the layouts and changes what a tool would change.
"""

import base64
import json
import re
import shutil
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
from PIL import Image

from pipeline import cli

CLASSES = ("red", "green", "blue")
COUNTS = {"train": 6, "val": 3}
WIDTH, HEIGHT = 48, 40
Object = tuple[str, tuple[float, ...]]
TRUTH: dict[str, list[list[Object]]] = {
    split: [
        [(CLASSES[(number + one) % 3], (3 + number + 9 * one, 4 + 5 * one, 16 + one, 12 + number)) for one in range(1 + number % 2)]
        for number in range(count)
    ]
    for split, count in COUNTS.items()
}
"""Per split and image: class and x, y, width, height in px; 9 boxes in train, 4 in val."""


def draw(path: Path, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def objects() -> list[tuple[str, int, list[Object]]]:
    return [(split, number, found) for split, images in TRUTH.items() for number, found in enumerate(images)]


def seed(split: str, number: int) -> int:
    return 100 * len(split) + number


def coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    for split in COUNTS:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, found in enumerate(TRUTH[split]):
            draw(root / split / f"{split}{number}.png", seed(split, number))
            images.append({"id": number + 1, "file_name": f"{split}{number}.png", "width": WIDTH, "height": HEIGHT})
            for name, box in found:
                place = {"image_id": number + 1, "category_id": CLASSES.index(name) + 1, "bbox": list(box)}
                annotations.append({"id": len(annotations) + 1, **place, "area": box[2] * box[3], "iscrowd": 0})
        categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
        whole = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(whole))


def yolo_line(name: str, box: Sequence[float]) -> str:
    x, y, wide, high = box
    return f"{CLASSES.index(name)} {(x + wide / 2) / WIDTH:.8f} {(y + high / 2) / HEIGHT:.8f} {wide / WIDTH:.8f} {high / HEIGHT:.8f}\n"


def yolo(root: Path) -> None:
    for split, number, found in objects():
        draw(root / split / "images" / f"{split}{number}.png", seed(split, number))
        (root / split / "labels").mkdir(exist_ok=True)
        (root / split / "labels" / f"{split}{number}.txt").write_text("".join(yolo_line(*one) for one in found))
    (root / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [red, green, blue]\n")


def voc(root: Path) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, number, found in objects():
        name = f"{split}{number}"
        draw(root / "JPEGImages" / f"{name}.png", seed(split, number))
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        body = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for label, (x, y, w, h) in found
        )
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation><filename>{name}.png</filename>{size}{body}</annotation>")
        with (root / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
            file.write(f"{name}\n")


WRITERS: Mapping[str, Callable[[Path], None]] = {"coco": coco, "yolo": yolo, "voc": voc}


def files(root: Path, pattern: str) -> list[Path]:
    found = sorted(root.glob(pattern))
    assert found, pattern
    return found


def edit(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change both COCO files."""
    for path in files(root, "**/*.json"):
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))


def every(key: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """A change of every entry of a list of both COCO files."""

    def change_all(data: dict[str, Any]) -> None:
        for row in data[key]:
            change(row)

    return lambda root: edit(root, change_all)


def rewrite(pattern: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    """A change of the text of files."""

    def write(root: Path) -> None:
        for path in files(root, pattern):
            path.write_text(change(path.read_text()))

    return write


def mark(pattern: str) -> Callable[[Path], None]:
    """A byte order mark at the start of files."""

    def write(root: Path) -> None:
        for path in files(root, pattern):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    return write


def rename(root: Path, pattern: str, name: Callable[[Path], str]) -> None:
    for path in files(root, pattern):
        path.rename(path.with_name(name(path)))


def roboflow(root: Path) -> None:
    """An annotation file next to the images of each split."""
    for split in COUNTS:
        (root / "annotations" / f"instances_{split}.json").rename(root / split / "_annotations.coco.json")
    (root / "annotations").rmdir()


def root_category(name: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        roboflow(root)

        def change(data: dict[str, Any]) -> None:
            named = [{**one, "supercategory": name} for one in data["categories"]]
            data["categories"] = [{"id": 0, "name": name, "supercategory": "none"}, *named]

        edit(root, change)

    return write


def halved(root: Path) -> None:
    for split, number, _ in objects():
        draw(root / split / f"{split}{number}.png", seed(split, number), (WIDTH // 2, HEIGHT // 2))


def to_corners(row: dict[str, Any]) -> None:
    x, y, wide, high = row["bbox"]
    row["bbox"] = [x, y, x + wide, y + high]


def to_polygon(row: dict[str, Any]) -> None:
    x, y, wide, high = row.pop("bbox")
    row["segmentation"] = [[x, y, x + wide, y, x + wide, y + high, x, y + high]]


def val_lacks_red(root: Path) -> None:
    path = root / "annotations" / "instances_val.json"
    data = json.loads(path.read_text())
    data["annotations"] = [row for row in data["annotations"] if row["category_id"] != 1]
    data["categories"] = data["categories"][1:]
    path.write_text(json.dumps(data))


def most_images_missing(root: Path) -> None:
    for number in range(1, 6):
        (root / "train" / f"train{number}.png").unlink()


def subset_names(root: Path) -> None:
    for split, name in (("train", "Train"), ("val", "Validation")):
        (root / "annotations" / f"instances_{split}.json").rename(root / "annotations" / f"instances_{name}.json")
        (root / "images").mkdir(exist_ok=True)
        (root / split).rename(root / "images" / name)


def only_test_besides_train(root: Path) -> None:
    roboflow(root)
    (root / "val").rename(root / "test")


def keypoints(root: Path) -> None:
    rewrite("*/labels/*.txt", lambda text: re.sub(r"(?m)$(?<=\d)", " 0.3 0.3 0.4 0.3 0.4 0.4 0.3 0.4", text))(root)
    rewrite("data.yaml", lambda text: text + "kpt_shape: [4, 2]\n")(root)


def suffixes(root: Path) -> None:
    rename(root, "train/images/train[01].png", lambda path: f"{path.stem}.jfif")
    rename(root, "val/images/val0.png", lambda path: f"{path.stem}.heic")


def words(root: Path) -> None:
    (root / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [yes, no, null]\n")


def class_list(root: Path) -> None:
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_bytes(b"\xef\xbb\xbfred\ngreen\nblue\n")
    for split in COUNTS:
        for kind in ("images", "labels"):
            (root / kind).mkdir(exist_ok=True)
            (root / split / kind).rename(root / kind / split)
        (root / split).rmdir()


def darknet(root: Path) -> None:
    (root / "data.yaml").unlink()
    (root / "obj.data").write_text(
        "classes = 3\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    (root / "obj.names").write_text("red\ngreen\nblue\n")
    for split, name in (("train", "train"), ("val", "valid")):
        folder = root / f"obj_{name}_data"
        (root / split / "images").rename(folder)
        for path in files(root, f"{split}/labels/*.txt"):
            path.rename(folder / path.name)
        listed = [f"data/{folder.name}/{path.name}\n" for path in sorted(folder.glob("*.png"))]
        (root / f"{name}.txt").write_text("".join(listed))


def images_first(root: Path) -> None:
    """images/train and labels/train; the data file as the tool writes it is up to the caller."""
    class_list(root)
    (root / "classes.txt").unlink()


def listed(root: Path) -> None:
    images_first(root)
    (root / "data.yaml").write_text("path: .\ntrain: train.txt\nval: val.txt\nnames: {0: red, 1: green, 2: blue}\n")
    for split in COUNTS:
        (root / f"{split}.txt").write_text("".join(f"data/images/{split}/{path.name}\n" for path in files(root, f"images/{split}/*.png")))


def names_only(root: Path) -> None:
    images_first(root)
    (root / "data.yaml").write_text("names: [red, green, blue]\n")


def unsplit(root: Path) -> None:
    for split, number, _ in objects():
        for kind, suffix in (("images", "png"), ("labels", "txt")):
            (root / kind).mkdir(exist_ok=True)
            name = f"{split}{number}.{suffix}"
            (root / split / kind / name).rename(root / kind / name)
    for split in COUNTS:
        shutil.rmtree(root / split)
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("red\ngreen\nblue\n")


def side_by_side(root: Path) -> None:
    for split in COUNTS:
        for path in [*files(root, f"{split}/images/*"), *files(root, f"{split}/labels/*")]:
            path.rename(root / split / path.name)
        (root / split / "images").rmdir()
        (root / split / "labels").rmdir()
    (root / "data.yaml").write_text("train: train\nval: val\nnames: [red, green, blue]\n")


def hidden_copies(root: Path) -> None:
    hidden = root / "train" / "images" / ".ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(root / "train" / "images" / "train0.png", hidden / "train0-checkpoint.png")
    (root / "train" / "images" / "._train1.png").write_bytes(b"\0\5\x16\7")


def other_yaml(root: Path) -> None:
    (root / "data.yaml").rename(root / "shapes.yaml")
    (root / "args.yaml").write_text("task: detect\nmodel: n.pt\ndata: shapes.yaml\nepochs: 3\n")


def chinese(root: Path) -> None:
    for path in files(root, "Annotations/*.xml"):
        text = path.read_text().replace("<name>red<", "<name>红<")
        path.write_bytes(f'<?xml version="1.0" encoding="gb2312"?>{text}'.encode("gb2312"))


def spaces(root: Path) -> None:
    rewrite("Annotations/*.xml", lambda text: re.sub(r"(train|val)(\d)\.png", r"\1 (\2).png", text))(root)
    rewrite("ImageSets/Main/*.txt", lambda text: re.sub(r"(\d)", r" (\1)", text))(root)
    for pattern in ("Annotations/*", "JPEGImages/*"):
        rename(root, pattern, lambda path: re.sub(r"(\d)", r" (\1)", path.name))


def stale_names(root: Path) -> None:
    rewrite("Annotations/*.xml", lambda text: re.sub(r"<filename>.*?</filename>", "<filename>0001.jpg</filename>", text))(root)
    rename(root, "JPEGImages/*.png", lambda path: f"{path.stem}.PNG")


def renumbered(root: Path) -> None:
    """Each <filename> has the next image of its split."""

    def following(text: str) -> str:
        return re.sub(r"<filename>(\D+)(\d)\.png", lambda found: f"<filename>{found[1]}{(int(found[2]) + 1) % COUNTS[found[1]]}.png", text)

    rewrite("Annotations/*.xml", following)(root)


def deep(root: Path, limit: int) -> None:
    """16-bit gray files with values below the limit."""
    for path in files(root, "*/images/*.png"):
        values = np.random.default_rng(len(path.name) + int(path.stem[-1])).integers(0, limit, (HEIGHT, WIDTH), dtype=np.uint16)
        Image.fromarray(values).save(path)


def transparent(root: Path) -> None:
    for path in files(root, "*/images/*.png"):
        image = Image.open(path).convert("RGBA")
        image.putalpha(0)
        image.save(path)


def huge(root: Path) -> None:
    Image.new("1", (12000, 9000)).save(root / "train" / "images" / "train0.png")


@dataclass(frozen=True)
class Changed:
    """A change of a layout; what `run` must print as notes, by how each line goes on after "data: "; boxes of the truth, or others."""

    layout: str
    change: Callable[[Path], None]
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = CLASSES
    named: Mapping[str, str] = field(default_factory=dict)
    boxes: Callable[[str, int, list[Object]], list[Object] | None] = lambda _split, _number, found: found
    below: str = "."


def half(split: str, number: int, found: list[Object]) -> list[Object]:
    return [(name, tuple(value / 2 for value in box)) for name, box in found]


def no_red_in_val(split: str, number: int, found: list[Object]) -> list[Object]:
    return [one for one in found if split == "train" or one[0] != "red"]


def readable(split: str, number: int, found: list[Object]) -> list[Object] | None:
    return None if (split, number) == ("val", 0) else found


def first_train(split: str, number: int, found: list[Object]) -> list[Object] | None:
    return None if split == "train" and number else found


def both(line: str, train: str, val: str, first: tuple[str, str] = ("", "")) -> tuple[str, ...]:
    return tuple(f"{split}: {line}: {count}, first: {one}" for split, count, one in zip(COUNTS, (train, val), first, strict=True))


GROUP = "repaired: class that only groups all others, as Roboflow writes it"
UNUSUAL = "repaired: text in an unusual encoding"
DIFFERENT = "repaired: image named differently from its file"

READ = {
    "coco-image-ids-as-text": Changed(
        "coco",
        every("images", lambda row: row.update(id=str(row["id"]))),
        both("repaired: id written as text or fraction", "1 file", "1 file"),
    ),
    "coco-class-ids-with-decimals": Changed(
        "coco",
        every("categories", lambda row: row.update(id=float(row["id"]))),
        both("repaired: id written as text or fraction", "1 file", "1 file"),
    ),
    "coco-annotations-without-ids": Changed(
        "coco",
        every("annotations", lambda row: row.pop("id")),
        both("repaired: annotation without an id of its own, numbered", "9 of 9 boxes", "4 of 4 boxes"),
    ),
    "coco-backslashes": Changed(
        "coco",
        every("images", lambda row: row.update(file_name=f"images\\{row['file_name']}")),
        both(DIFFERENT, "6 of 6 images", "3 of 3 images", ("images\\train0.png is ", "images\\val0.png is ")),
    ),
    "coco-polygons-alone": Changed(
        "coco", every("annotations", to_polygon), both("repaired: box taken from its mask", "9 of 9 boxes", "4 of 4 boxes")
    ),
    "coco-val-lacks-a-class": Changed(
        "coco",
        val_lacks_red,
        ("val: repaired: class that train has but the split does not list: 1 of 3 classes, first: red in instances_val.json",),
        boxes=no_red_in_val,
    ),
    "coco-root-category": Changed("coco", root_category("shapes"), both(GROUP, "1 of 3 classes", "1 of 3 classes")),
    "coco-cvat-subsets": Changed("coco", subset_names),
    "coco-images-halved": Changed(
        "coco",
        halved,
        both(
            "repaired: image resized after labeling",
            "6 of 6 images",
            "3 of 3 images",
            ("train0.png is 24 x 20 px, annotated as 48 x 40; boxes and masks scaled by 0.5", "val0.png is 24 x 20 px"),
        ),
        boxes=half,
    ),
    "coco-corners-if-told": Changed("coco", every("annotations", to_corners), options={"boxes": "xyxy"}),
    "coco-test-as-val": Changed("coco", only_test_besides_train, options={"splits": {"val": "test"}}),
    "coco-images-missing-if-told": Changed(
        "coco",
        most_images_missing,
        ("train: left out: missing image: 5 of 6 images, first: ",),
        {"max_doubtful": 0.9},
        boxes=first_train,
    ),
    "yolo-keypoints": Changed("yolo", keypoints, both("repaired: keypoints after the box", "9 of 9 boxes", "4 of 4 boxes")),
    "yolo-suffixes": Changed(
        "yolo",
        suffixes,
        ("val: left out: image in a format that is not read: 1 of 3 images, first: val/images/val0.heic: ",),
        {"max_doubtful": 0.5},
        boxes=readable,
    ),
    "yolo-names-that-yaml-converts": Changed(
        "yolo", words, classes=("yes", "no", "null"), named=dict(zip(CLASSES, ("yes", "no", "null"), strict=True))
    ),
    "yolo-names-with-quoted-numbers": Changed(
        "yolo", rewrite("data.yaml", lambda text: text.replace("[red, green, blue]", "{'0': red, '1': green, '2': blue}"))
    ),
    "yolo-labels-with-byte-order-mark": Changed("yolo", mark("*/labels/*.txt"), both(UNUSUAL, "6 files", "3 files")),
    "yolo-class-list-with-byte-order-mark": Changed("yolo", class_list, (f"train: {UNUSUAL}: 1 file, first: classes.txt",)),
    "yolo-darknet": Changed(
        "yolo",
        darknet,
        (
            "train: repaired: path that does not exist on this machine: 1 file, first: data/train.txt is train.txt",
            f"train: {DIFFERENT}: 6 of 6 images, first: data/obj_train_data/train0.png is obj_train_data/train0.png",
            "val: repaired: path that does not exist on this machine: 1 file, first: data/valid.txt is valid.txt",
            f"val: {DIFFERENT}: 3 of 3 images, first: data/obj_valid_data/val0.png is obj_valid_data/val0.png",
        ),
    ),
    "yolo-lists-with-a-prefix": Changed("yolo", listed, both(DIFFERENT, "6 of 6 images", "3 of 3 images")),
    "yolo-names-alone": Changed("yolo", names_only),
    "yolo-below-a-folder-called-images": Changed("yolo", side_by_side, below="images/set"),
    "yolo-hidden-copies": Changed("yolo", hidden_copies),
    "yolo-labels-in-other-case": Changed(
        "yolo",
        lambda root: rename(root, "*/labels/*[02].txt", lambda path: f"{path.stem.upper()}.txt"),
        both("repaired: label file named differently from its image", "2 files", "2 files"),
    ),
    "yolo-arguments-of-a-training": Changed("yolo", other_yaml),
    "yolo-12-bits-if-told": Changed("yolo", lambda root: deep(root, 4096), options={"preprocessing": {"white": 4095}}),
    "yolo-transparent-if-told": Changed("yolo", transparent, options={"preprocessing": {"alpha": "ignore"}}),
    "voc-chinese": Changed("voc", chinese, both(UNUSUAL, "3 files", "1 file"), classes=("blue", "green", "红"), named={"red": "红"}),
    "voc-spaces": Changed("voc", spaces, classes=("blue", "green", "red")),
    "voc-stale-names": Changed(
        "voc",
        stale_names,
        both(DIFFERENT, "6 of 6 images", "3 of 3 images", ("train0.xml names 0001.jpg; train0.PNG is used", "val0.xml names 0001.jpg")),
        classes=("blue", "green", "red"),
    ),
    "voc-root-above": Changed("voc", lambda _: None, classes=("blue", "green", "red"), below="VOC2007"),
    "voc-renumbered-if-told": Changed(
        "voc",
        renumbered,
        both("assumed: <filename> names a different image", "6 of 6 images", "3 of 3 images"),
        {"max_doubtful": 1},
        classes=("blue", "green", "red"),
    ),
}

REFUSED = {
    "coco-corners": (
        Changed("coco", every("annotations", to_corners)),
        r"instances_train\.json: 9 of 9 boxes .* fit as x1, y1, x2, y2; set data\.boxes: xyxy",
    ),
    "coco-images-missing": (
        Changed("coco", most_images_missing),
        r"train: 5 of 6 images are left out or assumed \(missing image 5\), first: .*train1\.png; .*set data\.max_doubtful to 0\.8\d* to",
    ),
    "coco-no-val": (
        Changed("coco", only_test_besides_train),
        r"no val split: the data has train, test, .*set data\.splits: \{val: test\}, or data\.val_share: 0\.2",
    ),
    "yolo-no-split": (Changed("yolo", unsplit), r"no val split: the data has train, .*set data\.val_share: 0\.2"),
    "yolo-classes-from-1": (
        Changed("yolo", rewrite("*/labels/*.txt", lambda text: re.sub(r"(?m)^\d", lambda found: str(int(found[0]) + 1), text))),
        r"train/labels/train\d\.txt:\d: .*class numbers run from 1 to 3, but the 3 names are counted from 0",
    ),
    "yolo-12-bits": (
        Changed("yolo", lambda root: deep(root, 4096)),
        r"16-bit values in the lowest part of their range 6\), first: .*set data\.preprocessing\.white to 4095",
    ),
    "yolo-transparent": (
        Changed("yolo", transparent),
        r"picture under full transparency 6\), first: .*set data\.preprocessing\.alpha to ignore",
    ),
    "yolo-huge-image": (
        Changed("yolo", huge, options={"max_doubtful": 0.1}),
        r"train0\.png: 12000 x 9000 px is more than 89,478,485; .*raise data\.preprocessing\.max_pixels",
    ),
    "voc-renumbered": (
        Changed("voc", renumbered),
        r"<filename> names a different image 6\), first: train0\.xml names train1\.png; train0\.png is used; .*data\.max_doubtful to 1 ",
    ),
}


@pytest.fixture
def call(small_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`edgedistill <arguments>` next to a pipeline.yaml: exit code, output, messages."""
    monkeypatch.chdir(small_file.parent)

    def command(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([*map(str, arguments)])
        return code, *capsys.readouterr()

    return command


Call = Callable[..., tuple[int, str, str]]


def made(case: Changed, root: Path) -> list[str]:
    """Write the data set; the options that name it."""
    WRITERS[case.layout](root / case.below)
    case.change(root / case.below)
    at = root if case.layout == "voc" else root / case.below
    return ["--set", f"data={json.dumps({'dataset': case.layout, 'root': str(at), **case.options})}"]


def prepared(place: Path) -> dict[str, tuple[list[str], list[list[Object]]]]:
    """Of each split: the classes, and per image, in the order of their names, the boxes that will be learned."""
    found = {}
    for path in files(place, "runs/.store/prepare-*/annotations/*.json"):
        data = json.loads(path.read_text())
        names = {one["id"]: one["name"] for one in data["categories"]}
        images = sorted(data["images"], key=lambda image: str(image["file_name"]))
        rows = [[row for row in data["annotations"] if row["image_id"] == image["id"]] for image in images]
        found[path.stem] = [*names.values()], [[(names[row["category_id"]], tuple(row["bbox"])) for row in some] for some in rows]
    return found


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_it_is_read_right_and_every_repair_is_said(case: Changed, call: Call, tmp_path: Path) -> None:
    settings = made(case, tmp_path / "data")
    code, printed, errors = call("run", "--until", "prepare", *settings)
    assert code == 0, errors
    said = [line.removeprefix("data: ") for line in printed.splitlines() if line.startswith("data: ")]
    assert len(said) == len(case.notes), said
    assert all(line.startswith(start) for line, start in zip(sorted(said), sorted(case.notes), strict=True)), said
    found = prepared(tmp_path)
    for split, images in TRUTH.items():
        wanted = [rows for number, one in enumerate(images) if (rows := case.boxes(split, number, one)) is not None]
        classes, boxes = found[split]
        assert classes == [*case.classes]
        assert [[name for name, _ in rows] for rows in boxes] == [[case.named.get(name, name) for name, _ in rows] for rows in wanted]
        assert [[list(box) for _, box in rows] for rows in boxes] == [
            [pytest.approx(list(box), abs=1e-3) for _, box in rows] for rows in wanted
        ]


@pytest.mark.parametrize(("case", "line"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_in_one_line(case: Changed, line: str, call: Call, tmp_path: Path) -> None:
    settings = made(case, tmp_path / "data")
    code, _, errors = call("run", "--until", "prepare", *settings)
    (error,) = [one for one in errors.splitlines() if one]
    assert (code, bool(re.search(line, error))) == (3, True), error
    assert not list(tmp_path.glob("runs/.store/prepare-*"))


@pytest.mark.parametrize("name", ["coco-corners", "yolo-12-bits", "voc-renumbered"])
def test_check_refuses_it_in_the_same_words(name: str, call: Call, tmp_path: Path) -> None:
    case, line = REFUSED[name]
    code, printed, _ = call("check", *made(case, tmp_path / "data"))
    assert (code, re.search(line, printed) is not None) == (3, True), printed


def test_a_part_of_train_is_held_out(call: Call, tmp_path: Path) -> None:
    settings = made(Changed("yolo", unsplit, options={"val_share": 0.34}), tmp_path / "data")
    code, printed, errors = call("run", "--until", "prepare", *settings)
    assert code == 0, errors
    assert re.search(r"(?m)^data: .*divided: .*: 3 of 9 images", printed), printed
    found = prepared(tmp_path)
    every_box = sorted([(name, *map(round, box)) for name, box in rows] for _, images in found.values() for rows in images)
    assert every_box == sorted([(name, *map(round, box)) for name, box in rows] for rows in [*TRUTH["train"], *TRUTH["val"]])
    assert [len(images) for _, images in (found["train"], found["val"])] == [6, 3]


def pictures(folder: Path) -> list[Path]:
    """Two images with one cell each that the sample bundle finds."""
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        Image.fromarray(onnx_samples.picture({(number, 2): number})).save(path)
    return paths


FOUND = [[32, 0, 16, 16, "red"], [32, 16, 16, 16, "green"]]


def found_in(out: Path) -> list[list[Any]]:
    """The best box of every image, and its class."""
    data = json.loads((out / "predictions.json").read_text())
    names = {one["id"]: one["name"] for one in data["categories"]}
    rows = [
        max((row for row in data["annotations"] if row["image_id"] == image["id"]), key=lambda row: row["score"])
        for image in data["images"]
    ]
    return [[*(round(value) for value in row["bbox"]), names[row["category_id"]]] for row in rows]


class TestPredict:
    @pytest.mark.parametrize("given", ["shots", "shots/*.png", "shots.txt"])
    def test_folders_patterns_and_lists(self, given: str, call: Call, tmp_path: Path) -> None:
        pictures(tmp_path / "shots")
        (tmp_path / "shots.txt").write_text("shots/0.png\nshots/1.png\n")
        bundle = samples.bundle(tmp_path / "made").root
        code, printed, _ = call("predict", bundle, given, "--out", "found")
        assert (code, printed.splitlines()) == (0, [f"found/{number}.png: 1 objects in 64 x 64 px" for number in range(2)])
        assert found_in(tmp_path / "found") == FOUND

    def test_one_bad_image_is_named_and_the_others_are_done(self, call: Call, tmp_path: Path) -> None:
        good, _ = pictures(tmp_path / "shots")
        (tmp_path / "notes.jpg").write_text("no picture")
        code, printed, errors = call("predict", samples.bundle(tmp_path / "made").root, "notes.jpg", good, "--out", "found")
        assert (code, printed.splitlines()) == (3, ["found/0.png: 1 objects in 64 x 64 px"])
        assert "left out: notes.jpg: not an image that can be read" in errors
        assert found_in(tmp_path / "found") == FOUND[:1]


@pytest.mark.parametrize("kind", ["json", "address"])
def test_the_server_reads_base64(kind: str, tmp_path: Path) -> None:
    serving = pytest.importorskip("serving_samples")
    text = base64.b64encode(pictures(tmp_path / "shots")[0].read_bytes()).decode()
    body = json.dumps({"image": text}) if kind == "json" else f"data:image/png;base64,{text}"
    server = serving.Running(samples.bundle(tmp_path / "made").root)
    try:
        with urllib.request.urlopen(urllib.request.Request(f"http://{server.http}/v1/detect", body.encode())) as answer:
            boxes = json.loads(answer.read())["annotations"]
    finally:
        server.stop()
    best = max(boxes, key=lambda row: row["score"])
    assert ([round(value) for value in best["bbox"]], best["category_id"]) == ([32, 0, 16, 16], onnx_samples.CATEGORY_IDS[0])


@pytest.mark.parametrize(("options", "code", "words"), [(["--split", "test"], 10, "mAP "), ([], 3, "no split val; the data has test;")])
def test_build_judges_on_a_split_by_name(options: list[str], code: int, words: str, call: Call, tmp_path: Path) -> None:
    """The data shows noise, so the gate on accuracy fails: it was judged."""
    root = tmp_path / "data"
    coco(root)
    only_test_besides_train(root)
    shutil.rmtree(root / "train")
    bundle = samples.bundle(tmp_path / "made").root
    found, printed, errors = call("build", bundle, "--data", root, *options, "--out", "here")
    assert (found, words in printed + errors) == (code, True), printed + errors


def test_build_reads_yolo(call: Call, tmp_path: Path) -> None:
    """Also in a folder whose neighbors hold JSON files."""
    yolo(tmp_path / "data")
    coco(tmp_path / "other")
    code, printed, errors = call("build", samples.bundle(tmp_path / "made").root, "--data", tmp_path / "data", "--out", "here")
    assert (code, "mAP 0.0" in printed) == (10, True), errors
    assert "data: val: repaired: class numbered differently from the bundle: 3 of 3 classes, first: red: 0 in the data is 3" in errors
