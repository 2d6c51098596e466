"""The report's pictures: one row per image with every network's boxes, and where teacher and student look."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.accuracy.judge import LabeledSplit
from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.prediction import image_files, preprocess
from deploy.prediction.detections import class_names
from pipeline.report.boxes import View, match_boxes, objects_of, tagged, truth_view
from pipeline.report.overlays import overlay
from stages.artifacts import ATTENTION, DETECTIONS, Checkpoint, Dataset, read_json
from stages.measurement.splits import labeled_split

NUM_IMAGES = 6
PHOTO_PX = 480
HEAT_PX = 256

_HEAT = np.array([(14, 10, 60), (84, 20, 125), (170, 45, 115), (232, 95, 65), (251, 170, 60), (253, 245, 175)], dtype=np.float64)


@dataclass(frozen=True)
class Photo:
    """A picture of width x height px as a data URI, with its views."""

    name: str
    width: int
    height: int
    uri: str
    views: tuple[View, ...]


@dataclass(frozen=True)
class Gaze:
    """Where the teacher and the student look in a picture, as data URIs, and the correlation of their maps, None if undefined."""

    name: str
    width: int
    height: int
    photo: str
    teacher: str
    student: str
    correlation: float | None


def photos(dataset: Dataset, split: str, networks: Mapping[str, Checkpoint], ids: Sequence[int]) -> list[Photo]:
    """The split's images of these ids with the boxes of the ground truth and of each network; missing images are left out."""
    labeled = labeled_split(dataset, split)
    names = class_names(labeled.truth)
    truth = objects_of(labeled.truth["annotations"], ids)
    found = {series: objects_of(_detections(checkpoint), ids) for series, checkpoint in networks.items()}
    masks = any(checkpoint.facts.contract.mask_frame is not None for checkpoint in networks.values())
    shown = []
    for row, pixels in readable(labeled, ids, dataset.facts.contract.preprocessing):
        own = truth.get(row["id"], [])
        views = [
            truth_view(own, names),
            *(match_boxes(series, own, objects.get(row["id"], []), names) for series, objects in found.items()),
        ]
        shown.append(photo_of(str(row["file_name"]), pixels, views, masks=masks))
    return shown


def choose(dataset: Dataset, split: str, student: Checkpoint) -> list[int]:
    """The images to show: those whose attention was kept, otherwise the first of the split."""
    known = [image["id"] for image in labeled_split(dataset, split).truth["images"]]
    kept = set(_attention(student)["image_ids"].tolist()) if (student.root / ATTENTION).exists() else set()
    return [i for i in known if i in kept][:NUM_IMAGES] or known[:NUM_IMAGES]


def gazes(dataset: Dataset, split: str, student: Checkpoint, ids: Sequence[int]) -> list[Gaze]:
    """The attention of teacher and student over each image; empty if none was kept."""
    if not (student.root / ATTENTION).exists():
        return []
    arrays = _attention(student)
    rows = {number: position for position, number in enumerate(arrays["image_ids"].tolist())}
    shown = []
    for row, pixels in readable(labeled_split(dataset, split), [i for i in ids if i in rows], dataset.facts.contract.preprocessing):
        teacher, student_map = (over_image(arrays[name][rows[row["id"]]], pixels, dataset) for name in ("teacher", "student"))
        small = _fitted(pixels, HEAT_PX)
        shown.append(
            Gaze(
                row["file_name"],
                *small.size,
                jpeg(small),
                jpeg(heat(small, teacher)),
                jpeg(heat(small, student_map)),
                correlation(teacher, student_map),
            )
        )
    return shown


def heat(image: Image.Image, attention: NDArray[np.float64]) -> Image.Image:
    """The image in dim gray under the attention [h, w], from dark violet (1st percentile) to pale yellow (99th percentile)."""
    low, high = np.percentile(attention, (1, 99))
    level = np.clip((attention - low) / (high - low), 0, 1) if high > low else np.zeros_like(attention)
    level = np.asarray(Image.fromarray(level.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)
    stops = np.linspace(0, 1, len(_HEAT))
    color = np.stack([np.interp(level, stops, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    weight = (0.45 + 0.4 * level)[..., None]
    gray = np.asarray(image.convert("L"), dtype=np.float64)[..., None]
    return Image.fromarray((gray * (1 - weight) + color * weight).round().clip(0, 255).astype(np.uint8))


def correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Pearson's correlation; None if either is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def jpeg(image: Image.Image) -> str:
    """The image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=84, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def readable(split: LabeledSplit, ids: Sequence[int], preprocessing: Preprocessing) -> list[tuple[dict[str, Any], NDArray[np.uint8]]]:
    """The rows and pixels of the images that can still be read."""
    images = {row["id"]: (row, file) for row, file in zip(split.truth["images"], split.images, strict=True)}
    found = []
    for row, file in (images[number] for number in ids):
        try:
            found.append((row, image_files.load_image(file, preprocessing)))
        except DataError:  # a missing picture does not spoil the report; the template counts the others
            continue
    return found


def _detections(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    file: Path = checkpoint.root / DETECTIONS
    found: list[dict[str, Any]] = read_json(file) if file.exists() else []
    return found


def _attention(student: Checkpoint) -> dict[str, NDArray[Any]]:
    with np.load(student.file(ATTENTION), allow_pickle=False) as arrays:
        return dict(arrays)


def over_image(attention: NDArray[Any], pixels: NDArray[np.uint8], dataset: Dataset) -> NDArray[np.float64]:
    """An attention map [h, w] over the network's input, cropped to the image's place in it."""
    preprocessing = dataset.facts.contract.preprocessing
    placement = preprocess.fit(pixels, preprocessing)[1]
    size = preprocessing.width, preprocessing.height
    whole = np.asarray(Image.fromarray(attention.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    left, top, right, bottom = placement.place(np.array([[0, 0, placement.width, placement.height]]))[0].round().astype(int)
    return whole[top:bottom, left:right]


def photo_of(name: str, pixels: NDArray[np.uint8], views: Sequence[View], *, tags: bool = True, masks: bool = False) -> Photo:
    """A picture with its views; `tags`: whether boxes show their classes; `masks`: whether those that have masks show them."""
    height, width = pixels.shape[:2]
    if masks:
        views = [replace(view, masks=overlay(view, (height, width), PHOTO_PX)) for view in views]
    drawn = tuple(tagged(view, width, height) for view in views) if tags else tuple(views)
    return Photo(name, width, height, jpeg(_fitted(pixels, PHOTO_PX)), drawn)


def _fitted(pixels: NDArray[np.uint8], longest: int) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image
