"""Masks, boxes and names drawn on an image."""

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deploy.prediction import masks
from deploy.prediction.detections import Detections

LineColor = tuple[int, int, int]
LEGIBLE_PX = 480
OPACITY = 0.45
_GOLDEN_RATIO = 0.618034


def draw(image: NDArray[np.uint8], detections: Detections, classes: Sequence[str]) -> Image.Image:
    """The image [H, W, 3] RGB with a box, a name, a score and, if there are masks, a translucent mask for each detection.

    An image whose longer side is below LEGIBLE_PX is enlarged by an integer factor to keep names readable.
    """
    factor = max(1, -(-LEGIBLE_PX // max(image.shape[:2])))
    painted = Image.fromarray(_paint(image, detections))
    picture = painted.resize((painted.width * factor, painted.height * factor), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 320))
    font = ImageFont.load_default(max(12, round(max(picture.size) / 45)))
    for index in reversed(range(len(detections))):  # the most certain on top
        label = int(detections.labels[index])
        x1, y1, x2, y2 = (float(value) * factor for value in detections.boxes[index])
        ink = color(label)
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=ink, width=width)
        _write(pen, f"{classes[label]} {detections.scores[index]:.2f}", (x1, y1), ink, font, picture.size)
    return picture


def color(label: int) -> LineColor:
    """A label's color, far from the colors of neighboring labels."""
    hue = label * _GOLDEN_RATIO % 1
    value = (1.0, 0.75, 0.9)[label // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _paint(image: NDArray[np.uint8], detections: Detections) -> NDArray[np.uint8]:
    """The image with its masks painted over it, the most certain on top."""
    painted = image.copy()
    for index in reversed(range(len(detections.masks or ()))):
        assert detections.masks is not None
        inside = masks.decode(detections.masks[index], (image.shape[0], image.shape[1]))
        ink = np.array(color(int(detections.labels[index])))
        painted[inside] = (painted[inside] * (1 - OPACITY) + ink * OPACITY).round()
    return painted


def _write(
    pen: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    ink: LineColor,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """Write text on a filled background above a box's upper left corner, moved to stay inside the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    wide, high = right - left + 4, bottom - top + 4
    x = min(max(corner[0], 0), max(size[0] - wide, 0))
    y = corner[1] - high if corner[1] >= high else min(max(corner[1], 0), max(size[1] - high, 0))
    pen.rectangle((x, y, x + wide, y + high), fill=ink)
    luminance = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2]
    pen.text((x + 2 - left, y + 2 - top), text, font=font, fill=(0, 0, 0) if luminance > 128 else (255, 255, 255))
