"""Random Pascal VOC data sets, by two independent writers, with random faults: never a traceback, never silently wrong."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import drawn_data
import globox
import pytest
from drawn_data import DrawnObject
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.errors import DataError
from stages.datasets import voc

WIDTH, HEIGHT = 60, 50
SPLITS = ("train", "val")

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass
class WrittenPage:
    """A data set on disk: XML files and images by number, and the lists."""

    root: Path
    xml: list[Path]
    images: list[Path]
    lists: list[Path]

    def edit(self, number: int, old: str, new: str) -> None:
        """Replace the first occurrence in an XML file."""
        if self.xml[number].is_file():
            data = self.xml[number].read_bytes()
            self.xml[number].write_bytes(data.replace(old.encode(), new.encode(), 1))


Fault = Callable[[WrittenPage, int, Draw], None]
"""Spoils a data set, at the XML file of this number."""


@st.composite
def objects(draw: Draw) -> tuple[str, tuple[int, int, int, int]]:
    left, top = draw(st.integers(0, WIDTH - 4)), draw(st.integers(0, HEIGHT - 4))
    right, bottom = draw(st.integers(left + 2, WIDTH)), draw(st.integers(top + 2, HEIGHT))
    return draw(st.sampled_from(["cat", "dog", "traffic light", "Käfer", "红"])), (left, top, right, bottom)


def by_hand(path: Path, image: str, things: list[tuple[str, tuple[int, int, int, int]]]) -> None:
    """A file as labelImg lays it out."""
    rows = [
        f"\t<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n"
        f"\t\t<bndbox>\n\t\t\t<xmin>{x1}</xmin>\n\t\t\t<ymin>{y1}</ymin>\n\t\t\t<xmax>{x2}</xmax>\n\t\t\t<ymax>{y2}</ymax>\n\t\t</bndbox>\n"
        "\t</object>\n"
        for name, (x1, y1, x2, y2) in things
    ]
    head = f"\t<folder>x</folder>\n\t<filename>{image}</filename>\n\t<path>C:\\x\\{image}</path>\n"
    size = f"\t<size>\n\t\t<width>{WIDTH}</width>\n\t\t<height>{HEIGHT}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
    path.write_text(f"<annotation>\n{head}{size}{''.join(rows)}</annotation>\n", encoding="utf-8")


def by_globox(path: Path, image: str, things: list[tuple[str, tuple[int, int, int, int]]]) -> None:
    """A file by a library that is not ours."""
    boxes = [globox.BoundingBox(label=name, xmin=x1, ymin=y1, xmax=x2, ymax=y2) for name, (x1, y1, x2, y2) in things]
    globox.Annotation(image, (WIDTH, HEIGHT), boxes).save_pascal_voc(path)


@st.composite
def data_sets(draw: Draw, root: Path) -> tuple[WrittenPage, list[DrawnObject]]:
    """A valid data set below `root`, and its objects."""
    count = draw(st.integers(2, 6))
    stems = draw(st.sampled_from([["{}"], ["im_{:03}"], ["photo ({})"], ["a.v{}"], ["Ä{}"]]))[0]
    layout = draw(st.sampled_from(["lists", "split folders", "side by side", "two folders"]))
    writer = draw(st.sampled_from([by_hand, by_globox]))
    folder, truth = WrittenPage(root, [], [], []), []
    for number in range(count):
        part = ("train", "valid")[number % 2]
        annotations, images = {
            "lists": ("Annotations", "JPEGImages"),
            "split folders": (part, part),
            "side by side": (".", "."),
            "two folders": ("annotations", "images"),
        }[layout]
        stem = stems.format(number)
        folder.xml.append(root / annotations / f"{stem}.xml")
        folder.images.append(root / images / f"{stem}.png")
        for path in (folder.xml[-1], folder.images[-1]):
            path.parent.mkdir(parents=True, exist_ok=True)
        things = draw(st.lists(objects(), min_size=1, max_size=3, unique=True))
        writer(folder.xml[-1], f"{stem}.png", things)
        folder.images[-1].write_bytes(drawn_data.png(WIDTH, HEIGHT, number))
        split = SPLITS[number % 2] if layout in ("lists", "split folders") else "train"
        truth += [DrawnObject(split, stem, name, (x, y, x2 - x, y2 - y)) for name, (x, y, x2, y2) in things]
    if layout == "lists":
        (root / "ImageSets/Main").mkdir(parents=True)
        for start, name in enumerate(("train", "val")):
            folder.lists.append(root / f"ImageSets/Main/{name}.txt")
            folder.lists[-1].write_text("".join(f"{stems.format(number)}\n" for number in range(start, count, 2)), encoding="utf-8")
    return folder, truth


def _recode(encoding: str, declared: str) -> Fault:
    def fault(folder: WrittenPage, number: int, draw: Draw) -> None:
        try:
            text = folder.xml[number].read_text(encoding="utf-8")
            folder.xml[number].write_bytes(f'<?xml version="1.0" encoding="{declared}"?>\n{text}'.encode(encoding))
        except (UnicodeError, FileNotFoundError):
            pass  # an earlier fault, or a class that this encoding does not have

    return fault


def _replace(old: str, *new: str) -> Fault:
    return lambda folder, number, draw: folder.edit(number, old, draw(st.sampled_from(new)))


def _filename(folder: WrittenPage, number: int, draw: Draw) -> None:
    other = folder.images[draw(st.integers(0, len(folder.images) - 1))].name
    name = folder.images[number].name
    texts = [
        "gone.png",
        "",
        other,
        f"C:\\x\\{name}",
        f"/x/{name}",
        name.replace(" ", "%20"),
        name[:-4],
        name[:-4] + ".jpg",
        "y" * 300,
        other.upper(),
    ]
    folder.edit(number, f"<filename>{name}</filename>", f"<filename>{draw(st.sampled_from(texts))}</filename>")


def _all_filenames_shifted(folder: WrittenPage, number: int, draw: Draw) -> None:
    for index, image in enumerate(folder.images):
        folder.edit(index, f"<filename>{image.name}</filename>", f"<filename>{folder.images[index - 1].name}</filename>")


def _swap(folder: WrittenPage, number: int, draw: Draw) -> None:
    folder.edit(number, "<xmin>", "<swap>")
    for old, new in (("</xmin>", "</swap>"), ("<xmax>", "<xmin>"), ("</xmax>", "</xmin>"), ("<swap>", "<xmax>"), ("</swap>", "</xmax>")):
        folder.edit(number, old, new)


def _fractions(folder: WrittenPage, number: int, draw: Draw) -> None:
    """Of the image, or of a size that a script took for the image's."""
    across, down = draw(st.sampled_from([(WIDTH, HEIGHT), (HEIGHT, WIDTH), (30, 25), (120, 100), (WIDTH, 1.5), (1.5, HEIGHT)]))
    for index in range(len(folder.xml)) if draw(st.booleans()) else [number]:
        for tags, side in (("xmin|xmax", across), ("ymin|ymax", down)):
            _divide(folder.xml[index], tags, side)


def _divide(path: Path, tags: str, side: float) -> None:
    pattern = rf"<({tags})>(\d+)</".encode()
    if path.is_file():
        path.write_bytes(re.sub(pattern, lambda found: b"<%b>%b</" % (found[1], str(int(found[2]) / side).encode()), path.read_bytes()))


def _list_line(folder: WrittenPage, number: int, draw: Draw) -> None:
    for path in folder.lists:
        lines = path.read_bytes().decode("utf-8", "replace").splitlines()
        name = lines[0] if lines else "x"
        forms = [
            f"{name}.png",
            f"{name} 1",
            f"{name}  -1",
            f'"{name}"',
            f"JPEGImages/{name}.png Annotations/{name}.xml",
            f"C:\\x\\{name}.png",
        ]
        forms += [f"{name}\n{name}", f"{name}\ngone", f"other/{name}", "gone", f"\ufeff{name}", f"{name} 7"]
        path.write_text(
            "\n".join([draw(st.sampled_from(forms)), *lines[1:]]),
            encoding=draw(st.sampled_from(["utf-8", "utf-16", "cp1252"])),
            errors="replace",
        )


def _remove(kind: str) -> Fault:
    def fault(folder: WrittenPage, number: int, draw: Draw) -> None:
        files: list[Path] = getattr(folder, kind)
        files[number].unlink(missing_ok=True)

    return fault


def _add(name: str, text: str) -> Fault:
    def fault(folder: WrittenPage, number: int, draw: Draw) -> None:
        (folder.xml[number].parent / name).write_text(text, encoding="utf-8")

    return fault


def _truncate(folder: WrittenPage, number: int, draw: Draw) -> None:
    if folder.xml[number].is_file():
        data = folder.xml[number].read_bytes()
        folder.xml[number].write_bytes(data[: draw(st.integers(0, len(data)))])


def _copy(folder: WrittenPage, number: int, draw: Draw) -> None:
    copy = folder.xml[number].with_name(draw(st.sampled_from(["copy.xml", "0.xml", "1.xml"])))
    if folder.xml[number].is_file():
        copy.write_bytes(folder.xml[number].read_bytes())


def _other_suffix(folder: WrittenPage, number: int, draw: Draw) -> None:
    image = folder.images[number]
    if image.is_file():
        image.rename(image.with_suffix(draw(st.sampled_from([".PNG", ".jpg", ".JPEG"]))))


FAULTS: dict[str, Fault] = {
    "GB 18030 declared as GB 2312": _recode("gb18030", "gb2312"),
    "GB 18030 declared as UTF-8": _recode("gb18030", "utf-8"),
    "UTF-8 declared as GB 2312": _recode("utf-8", "gb2312"),
    "Latin-1": _recode("latin-1", "iso-8859-1"),
    "UTF-16": _recode("utf-16", "utf-16"),
    "byte order mark": _recode("utf-8-sig", "utf-8"),
    "UTF-8 declared as UTF-16": _recode("utf-8", "utf-16"),
    "class names": _replace("<name>cat</name>", "<name/>", "", "<name>Cat</name>", "<name> cat\n</name>", "<name>a & b</name>"),
    "boxes": _replace(
        "<bndbox>", "<part><bndbox><xmin>1</xmin></bndbox></part><bndbox>", "<polygon/><bndbox>", "<bndbox/><bndbox>", "<box>"
    ),
    "left edges": _replace("<xmin>", "<xmin>-", "<xmin>0", "<xmin>1e1", "<xmin>nan", "<xmin>x", "<xmin>1,", "<x>", "<XMIN>"),
    "lower edges": _replace("</ymax>", ".0</ymax>", "e0</ymax>", "\n</ymax>", "e999</ymax>", "</YMAX>"),
    "widths": _replace("<width>60", "<width>0", "<width>x", "<width>120"),
    "outermost tags": _replace(
        "<annotation>", "<annotations>", '<annotation xmlns="http://x">', "<!DOCTYPE a [<!ENTITY x 'y'>]><annotation>", "\n<annotation>"
    ),
    "rotation": _replace("</bndbox>", "</bndbox><attributes><attribute><name>rotation</name><value>30.0</value></attribute></attributes>"),
    "filename": _filename,
    "all filenames": _all_filenames_shifted,
    "swapped corners": _swap,
    "fractions": _fractions,
    "list line": _list_line,
    "truncated": _truncate,
    "copied": _copy,
    "other suffix": _other_suffix,
    "no XML": _remove("xml"),
    "no image": _remove("images"),
    "OpenCV": _add("data.xml", "<storage/>"),
    "page of no image": _add("more.xml", "<annotation><filename>more.png</filename></annotation>"),
}
CHANGES_THE_TRUTH = frozenset({"<xmin>-", "<xmin>0", "<xmin>1e1", "<name>Cat", "<name>a & b", "<name>rotation"})
"""What is still a number means what it says, so no reader can tell."""


def check(draw: Draw, faults: int, known: Sequence[str] = tuple(FAULTS)) -> None:
    """Write, spoil and read one data set, with faults of those known."""
    with drawn_data.memory_folder() as place:
        folder, truth = draw(data_sets(place / "data"))
        chosen = [draw(st.sampled_from(known)) for _ in range(faults)]
        for fault in chosen:
            FAULTS[fault](folder, draw(st.integers(0, len(folder.xml) - 1)), draw)
        try:
            found, notes = drawn_data.read(voc.build(folder.root, root=str(folder.root)))
        except DataError as error:
            refusal: str | None = str(error)
        else:
            refusal = None
        if refusal is not None:
            assert faults, refusal
            assert "\n" not in refusal
            assert str(folder.root) in refusal
            return
        assert faults or not notes
        kept = told_apart(folder)
        drawn, read = ([one for one in objects if one.picture in kept] for objects in (truth, by_stem(found)))
        assert drawn_data.unaccounted(drawn, read, notes) == []


def by_stem(found: list[DrawnObject]) -> list[DrawnObject]:
    """The objects with the names of their pictures without the suffix, which a fault may change."""
    return [one._replace(picture=one.picture.rpartition(".")[0]) for one in found]


def told_apart(folder: WrittenPage) -> set[str]:
    """The pictures that left a trace, and whose XML files have no value that a reader must take for what was meant."""
    texts = {
        image.stem: path.read_text("utf-8", "replace") if path.is_file() else ""
        for image, path in zip(folder.images, folder.xml, strict=True)
    }
    traces = {path.stem for path in folder.root.rglob("*") if path.is_file()}
    return {stem for stem, text in texts.items() if stem in traces and not any(word in text for word in CHANGES_THE_TRUTH)}


COMMON = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@settings(COMMON, max_examples=30, derandomize=True)
@given(st.data())
def test_valid_data_is_read_as_it_is(data: st.DataObject) -> None:
    check(data.draw, 0)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault(name: str) -> None:
    @settings(COMMON, max_examples=15, derandomize=True)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        check(data.draw, 1, [name])

    one()


@settings(COMMON, max_examples=100, derandomize=True)
@given(st.data(), st.integers(1, 3))
def test_no_fault_is_silent(data: st.DataObject, faults: int) -> None:
    check(data.draw, faults)


@pytest.mark.slow
@settings(COMMON, max_examples=3400)
@given(st.data(), st.integers(1, 3))
def test_no_fault_is_silent_in_many(data: st.DataObject, faults: int) -> None:
    check(data.draw, faults)
