"""One XML file: the image it names, the size it states, its objects."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import DataError
from stages.datasets.layouts.pascal_voc import boxes
from stages.datasets.layouts.pascal_voc.xml_text import UNREADABLE, read_xml
from stages.notes import Kind, Notes

NO_BOX = Kind("object without a box", "left out", "boxes")
NO_NAME = Kind("object without a class", "left out", "boxes")
DELETED = Kind("object marked as deleted", "left out", "boxes")


@dataclass(frozen=True)
class Thing:
    """An object: its class, its corners as written, and whether VOC calls it difficult."""

    name: str
    corners: boxes.Corners
    difficult: bool


@dataclass(frozen=True)
class VocPage:
    """What a file says; `filename` is empty if it names no image, and `root` is the name of its outermost tag."""

    path: Path
    root: str
    filename: str
    width: int
    height: int
    things: tuple[Thing, ...]

    @property
    def is_voc(self) -> bool:
        """Whether this is an annotation of one image at all."""
        return self.root == "annotation"


def read(path: Path, notes: Notes, split: str) -> VocPage:
    """Read a file; one of a different format has no objects.

    Raises:
        DataError: it is not XML, a coordinate is not a number of px, or a class name cannot be read.
    """
    tree = read_xml(path, notes, split)
    if tree.tag != "annotation":
        return VocPage(path, str(tree.tag), "", 0, 0, ())
    filename = (tree.findtext("filename") or "").strip()
    things = tuple(thing for node in _objects(tree) if (thing := _thing(path, node, notes, split)) is not None)
    width, height = (_whole(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    return VocPage(path, "annotation", "" if UNREADABLE in filename else filename, width, height, things)


def _objects(tree: ET.Element) -> Iterator[ET.Element]:
    """Every object that is not part of another one."""
    inside = {id(inner) for node in tree.iter("object") for inner in node.iter("object") if inner is not node}
    return (node for node in tree.iter("object") if id(node) not in inside)


def _thing(path: Path, node: ET.Element, notes: Notes, split: str) -> Thing | None:
    name = " ".join((node.findtext("name") or "").split())
    if UNREADABLE in name:
        raise DataError(f"{path}: the class name '{name}' is not in the encoding that the file declares; save the file as UTF-8")
    if (node.findtext("deleted") or "").strip() == "1":
        notes.add(DELETED, split, f"{path.name}: {name}")
        return None
    corners = boxes.read(path, node, notes, split)
    if corners is None or not name:
        notes.add(NO_BOX if corners is None else NO_NAME, split, f"{path.name}: {name if corners is None else corners}")
        return None
    if boxes.are_fractions(corners):
        shown = " ".join(f"{value:g}" for value in corners)
        raise DataError(f"{path}: the box {shown} is in fractions of the image; VOC's boxes are in px, export them so")
    return Thing(name, corners, _is_true(node.findtext("difficult")))


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() in ("1", "1.0", "true", "yes")


def _whole(text: str | None) -> int:
    """A side in px; 0 if it is missing or cannot be one."""
    try:
        return max(int(float(text or 0)), 0)
    except (ValueError, OverflowError):
        return 0
