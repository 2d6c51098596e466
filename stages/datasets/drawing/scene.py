"""Paints handwritten digits on photographs: calm darkened crops, bright inks, soft shadows.

Letters: S is the image's side in px, h and w a painted digit's size in px. All randomness comes from the given generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
RGB = tuple[int, int, int]
InkBox = tuple[int, int, int, int]  # row, column, height, width

VERSION = 1  # raised whenever the same seed paints something different
VISIBLE = 0.5  # a pixel belongs to a digit if its ink covers at least this much of it
_MARGIN = 2  # px between a digit and the image's edge


@dataclass(frozen=True)
class Style:
    """How a split looks. Sizes are a digit's height in px before tilting; `blur` is a radius in px, drawn from 0 up to it."""

    side: int
    min_size: int
    max_size: int
    min_digits: int
    max_digits: int
    tilt: float
    inks: tuple[RGB, ...]
    blur: float = 0.0


@dataclass(frozen=True)
class PaintedDigit:
    """A painted digit: its label and its visible ink [S, S]."""

    label: int
    mask: Mask


def scene(
    rng: np.random.Generator,
    style: Style,
    photographs: Sequence[Image.Image],
    glyphs: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> tuple[Image.Image, list[PaintedDigit]]:
    """Paint one image; return it with its digits.

    Args:
        photographs: as `soften` returns them.
        glyphs: digits to draw from, [N, 28, 28], 0 paper to 255 ink.
        labels: [N].
    """
    canvas = background(rng, photographs[int(rng.integers(len(photographs)))], style.side)
    wanted = int(rng.integers(style.min_digits, style.max_digits + 1))
    sizes = np.exp(rng.uniform(np.log(style.min_size), np.log(style.max_size), wanted))
    objects: list[PaintedDigit] = []
    boxes: list[InkBox] = []
    for size in sorted(sizes, reverse=True):
        index = int(rng.integers(len(labels)))
        alpha = paint(glyphs[index], float(size), float(rng.uniform(-style.tilt, style.tilt)))
        spot = _free_spot(rng, alpha.shape, style.side, boxes)
        if spot is None:
            continue
        boxes.append((*spot, alpha.shape[0], alpha.shape[1]))
        place = slice(spot[0], spot[0] + alpha.shape[0]), slice(spot[1], spot[1] + alpha.shape[1])
        _apply_ink(canvas, place, alpha, _pick_ink(rng, style.inks, canvas[place], alpha))
        visible = np.zeros((style.side, style.side), dtype=np.bool_)
        visible[place] = alpha >= VISIBLE
        objects = [PaintedDigit(other.label, other.mask & ~visible) for other in objects]
        objects.append(PaintedDigit(int(labels[index]), visible))
    image = Image.fromarray((np.clip(canvas, 0, 255) + 0.5).astype(np.uint8))
    if style.blur:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0) * style.blur)))
    return image, objects


def soften(photograph: Image.Image, side: int) -> Image.Image:
    """The photograph at about twice the side of the images, slightly out of focus, as behind a subject."""
    scale = 1.8 * side / min(photograph.size)
    size = round(photograph.width * scale), round(photograph.height * scale)
    return photograph.resize(size, Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(side / 100))


def background(rng: np.random.Generator, photograph: Image.Image, side: int) -> Floats:
    """A crop of the photograph, dark and low in contrast to make bright ink readable: [S, S, 3], 0 to 130."""
    crop = int(min(photograph.size) * rng.uniform(0.5, 0.95))
    left = int(rng.integers(photograph.width - crop + 1))
    top = int(rng.integers(photograph.height - crop + 1))
    image = photograph.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + crop, top + crop))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tint = _tint(rng) if image.mode == "L" else np.ones(3, dtype=np.float32)
    pixels = np.asarray(image, dtype=np.float32).reshape(side, side, -1)
    return _calm(pixels, tint, mean=float(rng.uniform(52, 84)), spread=float(rng.uniform(14, 24)))


def paint(glyph: NDArray[np.uint8], size: float, tilt: float) -> Floats:
    """How much of each pixel a digit's ink covers, [h, w] from 0 to 1, cropped to the visible ink.

    Args:
        glyph: [28, 28], 0 paper to 255 ink.
        size: height before tilting, in px.
        tilt: degrees.
    """
    left, top, right, bottom = _extent(glyph > 64)
    scale = (bottom - top) / size  # glyph px per painted px
    side = int(np.hypot(right - left + 2, bottom - top + 2) / scale) + 2
    cosine, sine = scale * float(np.cos(np.radians(tilt))), scale * float(np.sin(np.radians(tilt)))
    across = (left + right) / 2 - side / 2 * (cosine - sine)
    down = (top + bottom) / 2 - side / 2 * (sine + cosine)
    matrix = cosine, -sine, across, sine, cosine, down
    large = Image.fromarray(glyph).transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    alpha: Floats = np.clip((np.asarray(large, dtype=np.float32) / 255 - 0.25) / 0.4, 0, 1).astype(np.float32)
    left, top, right, bottom = _extent(alpha >= VISIBLE)
    return alpha[top:bottom, left:right]


def tight_box(mask: Mask) -> tuple[float, float, float, float] | None:
    """The mask's bounding box (x, y, width, height) in px; None if it is empty."""
    if not mask.any():
        return None
    left, top, right, bottom = _extent(mask)
    return float(left), float(top), float(right - left), float(bottom - top)


def run_lengths(mask: Mask) -> dict[str, list[int]]:
    """COCO's run-length code of a mask: columns joined, alternating counts of 0s and 1s, starting with 0s."""
    flat = np.concatenate(([False], mask.T.ravel()))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate(([0], edges, [mask.size])))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def _extent(mask: Mask) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the px that are set; right and bottom are exclusive."""
    rows, columns = np.asarray(mask.any(axis=1)), np.asarray(mask.any(axis=0))
    left, top = int(columns.argmax()), int(rows.argmax())
    return left, top, len(columns) - int(columns[::-1].argmax()), len(rows) - int(rows[::-1].argmax())


def _free_spot(rng: np.random.Generator, shape: tuple[int, ...], side: int, taken: Sequence[InkBox]) -> tuple[int, int] | None:
    """Row and column where a digit overlaps others by at most a twelfth of the smaller one; None if 40 draws found none."""
    height, width = shape
    if max(height, width) + 2 * _MARGIN > side:
        return None
    rows = rng.integers(_MARGIN, side - height - _MARGIN + 1, 40).tolist()
    columns = rng.integers(_MARGIN, side - width - _MARGIN + 1, 40).tolist()
    for row, column in zip(rows, columns, strict=True):
        if all(_overlap((row, column, height, width), other) <= 1 / 12 for other in taken):
            return row, column
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    rows = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    columns = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(rows, 0) * max(columns, 0) / min(a[2] * a[3], b[2] * b[3])


def _pick_ink(rng: np.random.Generator, inks: Sequence[RGB], canvas: Floats, alpha: Floats) -> Floats:
    """The one of two randomly drawn inks that differs most from the canvas beneath."""
    beneath = canvas[alpha >= VISIBLE].mean(axis=0)
    drawn = np.array([inks[i] for i in rng.integers(len(inks), size=2)], dtype=np.float32)
    best: Floats = drawn[np.abs(drawn - beneath).sum(axis=1).argmax()]
    return best


def _apply_ink(canvas: Floats, place: tuple[slice, slice], alpha: Floats, ink: Floats) -> None:
    """Cover `place` of the canvas with ink, with a soft shadow below and to the right of it."""
    side = len(canvas)
    reach = side // 32
    padded = np.pad(alpha, reach)
    blurred = Image.fromarray((padded * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(side / 100))
    top, left = place[0].start - reach + side // 64, place[1].start - reach + side // 64
    bottom, right = min(top + padded.shape[0], side), min(left + padded.shape[1], side)
    cut = max(-top, 0), max(-left, 0)
    shade = np.asarray(blurred, dtype=np.float32)[cut[0] : bottom - top, cut[1] : right - left, None]
    canvas[max(top, 0) : bottom, max(left, 0) : right] *= 1 - shade * (0.6 / 255)
    beneath = canvas[place]
    beneath += alpha[..., None] * (0.95 * (ink - beneath))


def _tint(rng: np.random.Generator) -> Floats:
    """A gentle color [3] for a gray photograph."""
    angle = rng.uniform(0, 2 * np.pi) + np.array([0, 2, 4]) * np.pi / 3
    tint: Floats = (1 + 0.2 * np.cos(angle)).astype(np.float32)
    return tint


def _calm(pixels: Floats, tint: Floats, mean: float, spread: float) -> Floats:
    """The same picture with this mean luminance, and at most this standard deviation (spread) of it, darker toward the corners."""
    weights = np.array([0.299, 0.587, 0.114] if pixels.shape[2] == 3 else [1], dtype=np.float32)
    luminance = pixels @ weights
    middle = float(luminance.mean())
    gain = min(spread / (float(luminance.std()) + 1e-6), 1.0)
    color = min(1.5 * gain, 1.0)  # contrast is reduced, color mostly kept
    calm = color * pixels + (mean - gain * middle + (gain - color) * luminance)[..., None]
    np.clip(calm, 0, 120, out=calm)
    calm = calm * tint
    calm *= _vignette(len(pixels))
    return calm


@cache
def _vignette(side: int) -> Floats:
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    shade: Floats = (1 - 0.14 * (axis[:, None] ** 2 + axis[None, :] ** 2))[..., None]
    return shade
