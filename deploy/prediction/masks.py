"""Instance masks: from a graph's output to COCO's run-length codes in px of the original image, and COCO's mask formats.

The coding comes from faster-coco-eval, which needs only NumPy.
"""

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from deploy.contract import MaskFrame, Preprocessing
from deploy.prediction.preprocess import Placement

THRESHOLD = 0.5
PADDING = 1
"""Width, in samples, of the zero border around a mask that covers its box."""

Floats = NDArray[np.float32]


class Rle(TypedDict):
    """COCO's compressed run-length code; `size` is [height, width] in px."""

    size: list[int]
    counts: str


class Window(NamedTuple):
    """The part of an image's mask that is not empty: inside [h, w] bool, its upper left corner at (left, top) px."""

    inside: NDArray[np.bool_]
    left: int
    top: int


def to_rle(
    masks: Floats, boxes: NDArray[np.floating], frame: MaskFrame, placement: Placement, preprocessing: Preprocessing
) -> tuple[Rle, ...]:
    """The masks of one image's detections.

    Args:
        masks: [N, h, w] probabilities in `frame`.
        boxes: [N, 4] (x1, y1, x2, y2) in px of the network input, as returned by the graph.
        placement: position of the image in the network's input.
    """
    size = placement.height, placement.width
    if frame == "box":
        places = placement.undo(boxes, clip=False)  # a box may reach into the padding, and its mask covers all of it
        windows = (paste_box(mask, box, size) for mask, box in zip(masks, places, strict=True))  # lazily: they are large
    else:
        windows = (paste_image(mask, placement, preprocessing) for mask in masks)
    return tuple(encode(window.inside, size, window.left, window.top) for window in windows)


def paste_box(mask: Floats, box: NDArray[np.floating], size: tuple[int, int]) -> Window:
    """A mask [h, w] that covers its box (x1, y1, x2, y2), in an image of size (height, width) px.

    As torchvision's `paste_masks_in_image`: a zero border, the box enlarged by the same amount and truncated to whole px, bilinear.
    """
    padded = np.pad(np.asarray(mask, np.float32), PADDING)
    rows, top = _over_box(float(box[1]), float(box[3]), mask.shape[0], size[0])
    columns, left = _over_box(float(box[0]), float(box[2]), mask.shape[1], size[1])
    return Window(rows @ (padded @ columns.T) >= THRESHOLD, left, top)


def paste_image(mask: Floats, placement: Placement, preprocessing: Preprocessing) -> Window:
    """A mask [h, w] that covers the network's input, in px of the image: without the padding, bilinear."""
    down, across = mask.shape[0] / preprocessing.height, mask.shape[1] / preprocessing.width
    shown_y, y = _shown(placement.height, placement.scale_y, placement.top, down)
    shown_x, x = _shown(placement.width, placement.scale_x, placement.left, across)
    image = np.asarray(mask[shown_y, shown_x], np.float32)
    sure = image >= THRESHOLD
    rows, top = _over_image(y, np.flatnonzero(sure.any(axis=1)), image.shape[0])
    columns, left = _over_image(x, np.flatnonzero(sure.any(axis=0)), image.shape[1])
    return Window(rows @ (image @ columns.T) >= THRESHOLD, left, top)


def encode(inside: NDArray[np.bool_], size: tuple[int, int], left: int = 0, top: int = 0) -> Rle:
    """The code of an image of size (height, width) px that is empty except for `inside` [h, w] at (left, top).

    COCO counts px column by column; only the columns of `inside` are examined.
    """
    height, width = size
    columns = np.zeros((inside.shape[1], height), np.bool_)
    columns[:, top : top + inside.shape[0]] = inside.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + left * height
    counts = np.diff(changes, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    code = _codec().frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}


def decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask [height, width] of a COCO annotation: polygons, a run-length code, or one whose counts are a list.

    Raises:
        ValueError: it is none of these, or a code of a different size.
    """
    codec = _codec()
    if not isinstance(segmentation, Mapping):
        code = codec.merge(codec.frPyObjects(list(segmentation), *size))
    elif list(segmentation["size"]) != list(size):
        raise ValueError(f"a run-length code of {segmentation['size']} px in an image of {list(size)}")
    elif isinstance(segmentation["counts"], str | bytes):
        code = dict(segmentation)
    else:
        code = codec.frPyObjects(dict(segmentation), *size)
    return np.asarray(codec.decode(code), np.bool_)


def compressed(code: Mapping[str, Any], size: tuple[int, int]) -> str:
    """The counts of a run-length code of an image of size (height, width), compressed; those that already are stay as they are."""
    counts = code["counts"]
    if isinstance(counts, str | bytes):
        return counts if isinstance(counts, str) else counts.decode("ascii")
    found: str = _codec().frPyObjects(dict(code), *size)["counts"].decode("ascii")
    return found


def rectangle(box: Sequence[float]) -> list[list[float]]:
    """A COCO box (x, y, width, height) as a polygon: the mask of an object that has none."""
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def area(code: Rle) -> int:
    """Area of a mask in px."""
    return int(_codec().area(code))


def _over_box(low: float, high: float, samples: int, limit: int) -> tuple[Floats, int]:
    """Along one axis of an image `limit` px long: the weights of the padded samples for each px they cover, and the first such px."""
    bordered = samples + 2 * PADDING
    middle, half = (np.float32(high) + np.float32(low)) * np.float32(0.5), (np.float32(high) - np.float32(low)) * np.float32(0.5)
    half *= np.float32(bordered / samples)
    first, last = int(middle - half), int(middle + half)
    begin = min(max(first, 0), limit)
    px = np.arange(begin - first, max(min(last + 1, limit), begin) - first, dtype=np.float32)
    at = (px + np.float32(0.5)) * np.float32(bordered / max(last - first + 1, 1)) - np.float32(0.5)
    return _weights(at, bordered), begin


def _shown(extent: int, scale: float, offset: int, samples: float) -> tuple[slice, Floats]:
    """Along one axis: the samples inside the image, and the position of its px among them; `samples` is samples per px of the input."""
    first = int(offset * samples)
    last = max(math.ceil((offset + extent * scale) * samples - 1e-6), first + 1)
    at = ((np.arange(extent) + 0.5) * scale + offset) * samples - 0.5 - first
    return slice(first, last), at.astype(np.float32)


def _over_image(at: Floats, sure: NDArray[np.int64], samples: int) -> tuple[Floats, int]:
    """The weights for each px that a `sure` sample can raise to the threshold, and the first such px."""
    if not len(sure):
        return _weights(at[:0], samples), 0
    held = np.clip(at, 0, samples - 1)
    px = np.flatnonzero((held > sure[0] - 1) & (held < sure[-1] + 1))
    return _weights(at[px], samples), int(px[0]) if len(px) else 0


def _weights(at: Floats, samples: int) -> Floats:
    """Linear interpolation at `at`, clamped to the first and the last sample, as a matrix [len(at), samples]."""
    held = np.clip(at, 0, samples - 1)
    low = held.astype(np.int64)
    rows = np.zeros((len(at), samples), np.float32)
    index = np.arange(len(at))
    rows[index, low] = 1 - (held - low)
    rows[index, np.minimum(low + 1, samples - 1)] += held - low
    return rows


def _codec() -> ModuleType:
    """The mask codec; imported late, because that takes 0.2 s and detectors without masks do not need it."""
    from faster_coco_eval.core import mask

    assert isinstance(mask, ModuleType)
    return mask
