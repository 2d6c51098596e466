"""Instance masks over a picture: one transparent image for each network, in the colors of its boxes."""

import base64
import io

import numpy as np
from PIL import Image

from deploy.prediction.masks import decode
from pipeline.report.boxes import DrawnBox, View

_WRONG = (255, 79, 154)
_COLORS = {"truth": (230, 255, 92), "teacher": (98, 176, 255), "baseline": (211, 214, 220), "student": (255, 156, 74)}
"""By series, as in report.css."""

_OPACITY = 130
"""Of 255."""


def overlay(view: View, size: tuple[int, int], longest: int) -> str:
    """The masks of a view's objects and detections as a data URI; empty if it has none.

    What was missed has no mask there.

    Args:
        size: the picture's height and width in px. longest: longest side of the image in px.
    """
    drawn = [box for box in view.boxes if box.shape is not None and box.kind != "missed"]
    if not drawn:
        return ""
    colors = np.zeros((*size, 4), np.uint8)
    for box in sorted(drawn, key=lambda box: -box.width * box.height):  # small ones last, over the larger
        colors[decode(box.shape, size)] = (*_color(view.series, box), _OPACITY)
    image = Image.fromarray(colors)
    scale = min(longest / max(size), 1.0)
    small = image.resize((max(round(size[1] * scale), 1), max(round(size[0] * scale), 1)), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _color(series: str, box: DrawnBox) -> tuple[int, int, int]:
    return _WRONG if box.kind == "wrong" else _COLORS.get(series, _COLORS["student"])
