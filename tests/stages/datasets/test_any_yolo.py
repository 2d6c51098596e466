"""Random YOLO folders, written by two writers that share no code with the reader, then damaged in every way that it handles.

Never an exception other than DataError; whenever what is read differs from what was drawn, notes of the split account for it.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drawn_data
import globox
import hypothesis
import pytest
from drawn_data import DrawnObject
from hypothesis import strategies

from deploy.errors import DataError
from stages.datasets import yolo
from stages.notes import Note

Box = tuple[int, float, float, float, float]
"""Class number; center, width and height in fractions."""

SIZES = ((64, 48), (17, 90), (90, 31), (50, 50), (33, 71))
NAMES = ("cat", "dog", "traffic light", "no")
LAYOUTS = (("{0}/images", "{0}/labels"), ("images/{0}", "labels/{0}"), ("{0}", "{0}"))


@dataclass(frozen=True)
class Picture:
    split: str
    name: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]

    def truth(self) -> list[DrawnObject]:
        """Every object; pictures are named without a suffix, which a fault may change."""
        width, height = self.size
        return [
            DrawnObject(self.split, self.name, NAMES[kind], ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height))
            for kind, x, y, w, h in self.boxes
        ]


@dataclass(frozen=True)
class DrawnFolder:
    root: Path
    images: str
    labels: str
    pictures: tuple[Picture, ...]

    def texts(self, split: str) -> list[Path]:
        return sorted((self.root / self.labels.format(split)).glob("*.txt"))

    def head(self) -> str:
        return (self.root / "data.yaml").read_text()


@strategies.composite
def boxes(draw: Any) -> Box:
    """In steps of a 2,000th, which six decimals hold exactly and which are quick to draw."""
    w, h = draw(strategies.integers(50, 1000)), draw(strategies.integers(50, 1000))
    x, y = draw(strategies.integers(w, 2000 - w)), draw(strategies.integers(h, 2000 - h))
    return draw(strategies.integers(0, len(NAMES) - 1)), x / 2000, y / 2000, w / 1000, h / 1000


@strategies.composite
def pictures(draw: Any) -> tuple[Picture, ...]:
    found = []
    for split in ("train", "val"):
        for number in range(draw(strategies.integers(1, 3))):
            size = draw(strategies.sampled_from(SIZES))
            found.append(Picture(split, f"{split}{number}", size, tuple(draw(strategies.lists(boxes(), max_size=4, unique=True)))))
    return tuple(found)


def write_lines(file: Path, picture: Picture) -> None:
    file.write_text("".join(f"{kind} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for kind, x, y, w, h in picture.boxes))


def write_with_globox(file: Path, picture: Picture) -> None:
    made = [globox.BoundingBox(label=str(kind), **corners(picture, box)) for kind, *box in picture.boxes]
    annotation = globox.Annotation(f"{picture.name}.png", image_size=picture.size, boxes=made)
    annotation.save_yolo_v5(file, image_size=picture.size)


def corners(picture: Picture, box: list[float]) -> dict[str, float]:
    (width, height), (x, y, w, h) = picture.size, box
    left, top = (x - w / 2) * width, (y - h / 2) * height
    return {"xmin": left, "ymin": top, "xmax": left + w * width, "ymax": top + h * height}


def write(root: Path, found: tuple[Picture, ...], layout: tuple[str, str], writer: Callable[[Path, Picture], None]) -> DrawnFolder:
    images, labels = layout
    for picture in found:
        for place in layout:
            (root / place.format(picture.split)).mkdir(parents=True, exist_ok=True)
        (root / images.format(picture.split) / f"{picture.name}.png").write_bytes(drawn_data.png(*picture.size))
        writer(root / labels.format(picture.split) / f"{picture.name}.txt", picture)
    names = "".join(f"  - {name}\n" for name in NAMES)
    (root / "data.yaml").write_text(f"train: {images.format('train')}\nval: {images.format('val')}\nnames:\n{names}nc: {len(NAMES)}\n")
    return DrawnFolder(root, images, labels, found)


def every_line(change: Callable[[list[str]], str]) -> Callable[[DrawnFolder, str], None]:
    """Changes each line of a split, given as its words."""

    def damage(folder: DrawnFolder, split: str) -> None:
        for file in folder.texts(split):
            file.write_text("".join(f"{change(line.split())}\n" for line in file.read_text().splitlines()))

    return damage


def everywhere(change: Callable[[list[str]], str]) -> Callable[[DrawnFolder, str], None]:
    """Changes each line of both splits, as a tool would that exports all in one way."""

    def damage(folder: DrawnFolder, split: str) -> None:
        for one in ("train", "val"):
            every_line(change)(folder, one)

    return damage


def as_text(encode: Callable[[str], bytes]) -> Callable[[DrawnFolder, str], None]:
    """Rewrites the files of a split in another encoding."""

    def damage(folder: DrawnFolder, split: str) -> None:
        for file in folder.texts(split):
            file.write_bytes(encode(file.read_text()))

    return damage


def first(change: Callable[[Path], object]) -> Callable[[DrawnFolder, str], None]:
    """Changes the first label file of a split."""

    def damage(folder: DrawnFolder, split: str) -> None:
        change(folder.texts(split)[0])

    return damage


def file(name: str, change: Callable[[str], str]) -> Callable[[DrawnFolder, str], None]:
    """Writes one more file, made from data.yaml's text."""

    def damage(folder: DrawnFolder, split: str) -> None:
        (folder.root / name).write_text(change(folder.head()))

    return damage


def keypoints(folder: DrawnFolder, split: str) -> None:
    head("^", "kpt_shape: [3, 2]\n")(folder, split)
    everywhere(with_points)(folder, split)


def appended(line: str) -> Callable[[DrawnFolder, str], None]:
    return first(lambda file: file.write_text(f"{file.read_text().rstrip()}\n{line}\n"))


def renamed(change: Callable[[str], str]) -> Callable[[DrawnFolder, str], None]:
    return first(lambda file: file.rename(file.with_name(change(file.name))))


def head(pattern: str, instead: str) -> Callable[[DrawnFolder, str], None]:
    """Replaces text in data.yaml."""

    def damage(folder: DrawnFolder, split: str) -> None:
        (folder.root / "data.yaml").write_text(re.sub(pattern, instead, folder.head(), flags=re.DOTALL))

    return damage


def listed(line: str) -> Callable[[DrawnFolder, str], None]:
    """Lists the images of both splits in files instead of naming their folders."""

    def damage(folder: DrawnFolder, split: str) -> None:
        for one in ("train", "val"):
            place = folder.images.format(one)
            rows = [line.format(f"{place}/{picture.name}.png") for picture in folder.pictures if picture.split == one]
            (folder.root / f"{one}.txt").write_text("\n".join(rows))
        head(r"train: .*?\nval: .*?\n", "train: train.txt\nval: val.txt\n")(folder, split)

    return damage


def other_suffix(suffix: str) -> Callable[[DrawnFolder, str], None]:
    def damage(folder: DrawnFolder, split: str) -> None:
        file = min((folder.root / folder.images.format(split)).glob("*.png"))
        file.rename(file.with_suffix(suffix))

    return damage


def second_image(folder: DrawnFolder, split: str) -> None:
    file = min((folder.root / folder.images.format(split)).glob("*.png"))
    shutil.copy(file, file.with_suffix(".jpg"))


def hidden_copies(folder: DrawnFolder, split: str) -> None:
    for place in {folder.images, folder.labels}:
        for file in sorted((folder.root / place.format(split)).iterdir()):
            if file.is_file():
                (file.parent / ".ipynb_checkpoints").mkdir(exist_ok=True)
                shutil.copy(file, file.parent / ".ipynb_checkpoints" / f"{file.stem}-checkpoint{file.suffix}")


def as_corners(words: list[str]) -> str:
    kind, (x, y, w, h) = words[0], map(float, words[1:5])
    return f"{kind} {x - w / 2:.6f} {y - h / 2:.6f} {x + w / 2:.6f} {y + h / 2:.6f}"


def as_quad(words: list[str]) -> str:
    left, top, right, bottom = as_corners(words).split()[1:]
    return f"{words[0]} {left} {top} {right} {top} {right} {bottom} {left} {bottom}"


def with_points(words: list[str], visibility: str = "") -> str:
    x, y, w, h = map(float, words[1:5])
    points = [(x, y), (x - w / 4, y + h / 4), (x + w / 3, y - h / 3)]
    return " ".join([*words, *(f"{px:.4f} {py:.4f}{visibility}" for px, py in points)])


FAULTS: dict[str, Callable[[DrawnFolder, str], None]] = {
    "byte order mark": as_text(lambda text: text.encode("utf-8-sig")),
    "utf-16": as_text(lambda text: text.encode("utf-16")),
    "carriage returns": as_text(lambda text: text.replace("\n", "\r\n").encode()),
    "tabs": every_line("\t".join),
    "commas": every_line(",".join),
    "semicolons": every_line("; ".join),
    "decimal commas": every_line(lambda words: " ".join(words).replace(".", ",")),
    "comments": appended("# 0 0.5 0.5 0.1 0.1"),
    "float class": every_line(lambda words: " ".join([f"{float(words[0]):.6f}", *words[1:]])),
    "class name": every_line(lambda words: " ".join([NAMES[int(float(words[0]))], *words[1:]]) if words[0] < "4" else " ".join(words)),
    "confidence": every_line(lambda words: " ".join([*words, "0.875"])),
    "angle": every_line(lambda words: " ".join([*words, "45.5"])),
    "garbage": appended("see the other file"),
    "cut off": appended("0 0.5 0.5"),
    "not finite": appended("0 nan 0.5 0.1 inf"),
    "negative": appended("0 0.5 0.5 -0.1 0.1"),
    "no such class": appended("9 0.5 0.5 0.1 0.1"),
    "far too large": appended("0 0.5 0.5 20 30"),
    "px": everywhere(lambda words: " ".join([words[0], *(f"{float(word) * 640:.1f}" for word in words[1:])])),
    "percent": everywhere(lambda words: " ".join([words[0], *(f"{float(word) * 100:.3f}" for word in words[1:])])),
    "corners": everywhere(as_corners),
    "quads": everywhere(as_quad),
    "keypoints": everywhere(with_points),
    "keypoints with visibility": everywhere(lambda words: with_points(words, " 2")),
    "counted from 1": everywhere(lambda words: " ".join([str(int(words[0]) + 1), *words[1:]])),
    "kpt_shape": keypoints,
    "upper case": renamed(str.upper),
    "double suffix": renamed(lambda name: name.replace(".txt", ".png.txt")),
    "prefix": renamed(lambda name: f"0a1b2c3d-{name}"),
    "another name": renamed(lambda name: f"lost {name}"),
    "no label": first(Path.unlink),
    "not read": other_suffix(".heic"),
    "jfif": other_suffix(".jfif"),
    "second image": second_image,
    "hidden copies": hidden_copies,
    "absolute list": listed("/home/me/set/{0}"),
    "windows list": listed("C:\\set\\{0}"),
    "prefixed list": listed("data/{0}"),
    "quoted names": head(r"names:.*nc", "names: {'0': cat, '1': dog, '2': traffic light, '3': no}\nnc"),
    "comma names": head(r"names:.*nc", "names: cat, dog, traffic light, no\nnc"),
    "no names": head(r"names:.*nc", "nc"),
    "too few names": head("  - no\n", ""),
    "wrong nc": head("nc: 4", "nc: 7"),
    "path": head("^", "path: /content/set\n"),
    "absolute": head("(train|val): ", r"\1: /content/set/"),
    "parent": head("(train|val): ", r"\1: ../"),
    "no val": head("val: .*?\n", "val:\n"),
    "args.yaml": file("args.yaml", lambda _: "task: detect\nval: true\nepochs: 1\nnames: [x]\n"),
    "other yaml": file("old.yaml", lambda text: text.replace("cat", "cow")),
}


REFUSED = {"angle", "no such class", "px", "percent", "corners", "keypoints", "counted from 1", "no names", "too few names"}
"""What has two meanings."""

QUIET = {"args.yaml", "carriage returns", "comments", "hidden copies", "jfif", "parent", "quoted names", "tabs"}
"""What is an ordinary way to write the same data."""

LOST = {"another name", "no label", "not read"}
"""What costs the objects of an image."""


def check(folder: DrawnFolder) -> None:
    """Read the folder; what differs from the pictures must be noted, or refused."""
    try:
        found, notes = read(folder)
    except DataError as error:
        message = str(error)
    else:
        message = ""
        drawn = [one for picture in folder.pictures for one in picture.truth()]
        assert drawn_data.unaccounted(drawn, found, notes) == []
    assert "\n" not in message
    assert not message or str(folder.root) in message


def read(folder: DrawnFolder) -> tuple[list[DrawnObject], list[Note]]:
    """The objects after cleaning, with the names of their pictures without suffix, and the notes."""
    found, notes = drawn_data.read(yolo.build(folder.root, root=str(folder.root)))
    return [one._replace(picture=one.picture.rpartition(".")[0]) for one in found], notes


def cannot_be_told(folder: DrawnFolder, faults: list[str]) -> bool:
    """Whether the damaged files are as good as others that are not damaged: class numbers or corners that could be true."""
    used = [box for picture in folder.pictures for box in picture.boxes]
    if "counted from 1" in faults and not any(box[0] == len(NAMES) - 1 for box in used):
        return True
    if "corners" in faults:
        ends = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for _, x, y, w, h in used]
        beyond = [
            one for one in ends if min(one[0] - one[2] / 2, one[1] - one[3] / 2, 1 - one[0] - one[2] / 2, 1 - one[1] - one[3] / 2) < -0.02
        ]
        return 4 * len(beyond) < len(ends)
    return False


def run(examples: int) -> None:
    quiet = hypothesis.settings(
        max_examples=examples, deadline=None, database=None, derandomize=examples < 1000, suppress_health_check=list(hypothesis.HealthCheck)
    )
    faults = strategies.lists(strategies.sampled_from(sorted(FAULTS)), max_size=2, unique=True)

    @quiet
    @hypothesis.given(
        pictures(),
        strategies.sampled_from(LAYOUTS),
        strategies.sampled_from((write_lines, write_with_globox)),
        faults,
        strategies.booleans(),
    )
    def one(
        found: tuple[Picture, ...], layout: tuple[str, str], writer: Callable[[Path, Picture], None], chosen: list[str], val: bool
    ) -> None:
        with drawn_data.memory_folder() as place:
            folder = write(place, found, layout, writer)
            hypothesis.assume(not cannot_be_told(folder, chosen))
            for name in chosen:
                try:
                    FAULTS[name](folder, "val" if val else "train")
                except (ValueError, IndexError):  # this fault cannot follow the one before
                    hypothesis.reject()
            check(folder)

    one()


def test_nothing_is_silently_wrong() -> None:
    run(60)


@pytest.mark.slow
def test_nothing_is_silently_wrong_in_many() -> None:
    run(3400)


def sample(root: Path, layout: tuple[str, str]) -> DrawnFolder:
    kinds = [(0, 0.3, 0.4, 0.2, 0.3), (3, 0.5, 0.5, 0.9, 0.8), (1, 0.75, 0.25, 0.3, 0.4), (2, 0.2, 0.8, 0.3, 0.3)]
    found = [Picture(split, f"{split}{number}", (64, 48), tuple(kinds)) for split in ("train", "val") for number in range(2)]
    return write(root, tuple(found), layout, write_lines)


@pytest.mark.parametrize("name", sorted(FAULTS))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_fault(tmp_path: Path, name: str, layout: tuple[str, str]) -> None:
    folder = sample(tmp_path, layout)
    FAULTS[name](folder, "train")
    if name in REFUSED:
        with pytest.raises(DataError):
            yolo.build(tmp_path, root=str(tmp_path))
        return
    found, notes = read(folder)
    assert bool(notes) == (name not in QUIET)
    true = [one for picture in folder.pictures for one in picture.truth()]
    lost = [one for one in true if not any(one.is_like(other) for other in found)]
    assert len(lost) == (4 if name in LOST else 0)
    check(folder)


def test_the_writers_agree(tmp_path: Path) -> None:
    picture, other = (Picture(split, "a", (64, 48), ((0, 0.3, 0.4, 0.2, 0.3), (3, 0.5, 0.5, 0.9, 0.8))) for split in ("train", "val"))
    for name, writer in (("ours", write_lines), ("theirs", write_with_globox)):
        folder = write(tmp_path / name, (picture, other), LAYOUTS[0], writer)
        found, notes = read(folder)
        assert len(found) == 4
        assert drawn_data.unaccounted([*picture.truth(), *other.truth()], found, []) == []
        assert not notes
