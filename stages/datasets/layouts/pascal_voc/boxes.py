"""The box of an `<object>`, in px, however the tool wrote it."""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from deploy.errors import DataError
from stages.notes import Kind, Notes

Corners = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in px, as written: their order is not checked."""

ROTATED = Kind("rotated box as the upright box around it", "repaired", "boxes")
OUTLINE = Kind("outline as the box around it", "repaired", "boxes")

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.ASCII | re.IGNORECASE)


def read(path: Path, node: ET.Element, notes: Notes, split: str) -> Corners | None:
    """An object's corners; None if it has no box and no outline.

    Raises:
        DataError: a coordinate is missing or not a number, or the object has several boxes.
    """
    boxes, turned = node.findall("bndbox"), node.find("robndbox")
    if len(boxes) > 1:
        raise DataError(f"{path}: an object with {len(boxes)} boxes; write one <object> for each")
    if boxes and len(boxes[0]):
        corners = _corners(path, boxes[0])
        angle = _rotation(path, node)
        if not angle:
            return corners
        center = (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2
        found = _around(center, corners[2] - corners[0], corners[3] - corners[1], math.radians(angle))
        kind, text = ROTATED, f"rotation {angle:g} degrees"
    elif turned is not None:
        cx, cy, width, height, angle = (number(path, turned, tag) for tag in ("cx", "cy", "w", "h", "angle"))
        if abs(angle) > 2 * math.pi:
            raise DataError(f"{path}: <robndbox> with the angle {angle:g}; roLabelImg's angles are radians, at most 6.28")
        found = _around((cx, cy), width, height, angle)
        kind, text = ROTATED, f"robndbox, angle {angle:g}"
    elif points := _outline(path, node):
        found = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
        kind, text = OUTLINE, f"{len(points) // 2} points"
    else:
        return None
    notes.add(kind, split, f"{path.name}: {text}")
    return found


def number(path: Path, node: ET.Element, tag: str) -> float:
    """The number in a child of the node.

    Raises:
        DataError: there is none, or it is not a number.
    """
    text = (node.findtext(tag) or "").strip()
    if not _NUMBER.fullmatch(text):
        raise DataError(f"{path}: <{tag}> in <{node.tag}> is {_shown(text)}; it should be a number of px")
    return float(text)


def are_fractions(corners: Sequence[float]) -> bool:
    """Whether these can only be fractions of the image: within 0 and 1, and not whole numbers."""
    return all(0 <= value <= 1 for value in corners) and any(value not in (0, 1) for value in corners)


def _corners(path: Path, box: ET.Element) -> Corners:
    left, top, right, bottom = (number(path, box, side) for side in _SIDES)
    return left, top, right, bottom


def _rotation(path: Path, node: ET.Element) -> float:
    """The degrees by which CVAT turned the box, clockwise; it writes the box before the turn."""
    for attribute in node.iter("attribute"):
        if (attribute.findtext("name") or "").strip().lower() == "rotation":
            angle = number(path, attribute, "value")
            return angle if math.isfinite(angle) and angle % 180 else 0.0
    return 0.0


def _around(center: tuple[float, float], width: float, height: float, angle: float) -> Corners:
    """The upright box around a box turned by `angle`, in radians."""
    cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
    half_width, half_height = (width * cosine + height * sine) / 2, (width * sine + height * cosine) / 2
    return center[0] - half_width, center[1] - half_height, center[0] + half_width, center[1] + half_height


def _outline(path: Path, node: ET.Element) -> list[float]:
    """x, y of every point of `<polygon>`: LabelMe's `<pt><x/><y/></pt>`, or `<x1/><y1/>` and so on; empty if there is none."""
    polygon = node.find("polygon")
    if polygon is None:
        return []
    points = [number(path, point, side) for point in polygon.findall("pt") for side in "xy"]
    if not points:
        count = sum(re.fullmatch(r"x\d+", child.tag) is not None for child in polygon)
        points = [number(path, polygon, f"{side}{index}") for index in range(1, count + 1) for side in "xy"]
    return points if len(points) >= 6 else []


def _shown(text: str) -> str:
    return f"'{' '.join(text.split())[:40]}'" if text else "missing or empty"
