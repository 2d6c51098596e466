"""The page that `init --preview` writes: samples of every class, the smallest objects, the most crowded image, and histograms."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploy.contract import Preprocessing
from deploy.errors import DataError
from deploy.prediction import image_files
from deploy.prediction.detections import class_names
from pipeline.init.folder import LabeledFolder, corners_of, evenly
from pipeline.init.plan import FirstPlan
from pipeline.init.sample import Decoding
from pipeline.init.sizes import SMALL_PX, objects_at
from pipeline.report.boxes import MOST_TAGGED, objects_of, tagged, truth_view
from pipeline.report.pictures import PHOTO_PX, jpeg
from pipeline.report.preview_page import Bar, LabeledSample, Preview, render_preview

MOST_SAMPLES = 16
MOST_CLASSES = 60

_EDGES = (0, 4, SMALL_PX, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, np.inf)


def preview(folder: LabeledFolder, plan: FirstPlan, decoding: Decoding, root: Path) -> str:
    """The page's text."""
    counted = ", ".join(f"{count} in {split}" for split, count in folder.num_images.items())
    lead = f"Images: {counted}. Training objects: {len(folder.objects)}, {folder.per_image:.1f} per image."
    small = f"{plan.size.small:.1%} are below {SMALL_PX:g} px, drawn in orange; few of those are found"
    return render_preview(
        Preview(
            name=root.resolve().name,
            lead=lead,
            photos=list(_samples(folder, decoding.preprocessing)),
            classes=_class_bars(folder),
            sizes=_size_bars(folder, plan),
            about_sizes=f"The square root of the area, px, at {plan.size.width} x {plan.size.height} px. {small}.",
            notes=[str(note) for note in decoding.notes],
        )
    )


def _class_bars(folder: LabeledFolder) -> list[Bar]:
    rows = sorted(folder.classes.items(), key=lambda row: -row[1])
    most = max(folder.classes.values())
    shown = rows if len(rows) <= MOST_CLASSES else [*rows[: MOST_CLASSES // 2], *rows[-MOST_CLASSES // 2 :]]
    return [Bar(name, count, count / most, "few" if count < most / 100 or not count else "") for name, count in shown]


def _size_bars(folder: LabeledFolder, plan: FirstPlan) -> list[Bar]:
    found = np.sqrt(objects_at(folder, plan.size.width, plan.size.height).prod(axis=1))
    counts, _ = np.histogram(found, _EDGES)
    last = max(index for index, count in enumerate(counts) if count) + 1
    bars = []
    for low, high, count in list(zip(_EDGES, _EDGES[1:], counts, strict=False))[:last]:
        kind = "few limit" if high == SMALL_PX else "few" if high < SMALL_PX else ""
        label = f"{low:g} to {high:g} px" if high < np.inf else f"{low:g} px or more"
        bars.append(Bar(label, int(count), float(count) / int(max(counts)), kind))
    return bars


def _samples(folder: LabeledFolder, preprocessing: Preprocessing) -> Iterator[LabeledSample]:
    """Readable images of split train, each with the reason why it was picked."""
    source = folder.sources["train"]
    rows = {row["id"]: row for row in source.coco["images"]}
    names = class_names(source.coco)
    kept = [
        row for row in source.coco["annotations"] if corners_of(row) and row.get("image_id") in rows and row.get("category_id") in names
    ]
    picked = _picked(kept, rows, names)
    objects = objects_of(kept, list(picked))
    for number, why in picked.items():
        try:
            pixels = image_files.load_image(source.images / rows[number]["file_name"], preprocessing)
        except DataError:  # the page shows the others; `edgedistill check` names every unreadable image
            continue
        view = truth_view(objects.get(number, []), names)
        height, width = pixels.shape[:2]
        image = Image.fromarray(pixels)
        image.thumbnail((PHOTO_PX, PHOTO_PX), Image.Resampling.LANCZOS)
        drawn = tagged(view, width, height) if len(names) > 1 and len(view.boxes) <= MOST_TAGGED else view
        yield LabeledSample(str(rows[number]["file_name"]), width, height, jpeg(image), drawn, f"{why}; {len(view.boxes)} objects")


def _picked(kept: Sequence[Mapping[str, Any]], rows: Mapping[Any, Any], names: Mapping[Any, str]) -> dict[Any, str]:
    """Ids of the images to show with the reason: the most crowded, the smallest and the largest object, each class, then a spread."""
    by_image: dict[Any, int] = defaultdict(int)
    by_class: dict[Any, Any] = {}
    for row in kept:
        by_image[row["image_id"]] += 1
        by_class.setdefault(row["category_id"], row["image_id"])
    area = [row["bbox"][2] * row["bbox"][3] for row in kept]
    reasons = [
        (max(by_image, key=by_image.__getitem__), "the most objects"),
        (kept[int(np.argmin(area))]["image_id"], "the smallest object"),
        (kept[int(np.argmax(area))]["image_id"], "the largest object"),
        *((by_class[number], f"class {names[number]}") for number in evenly(list(by_class), MOST_SAMPLES - 6)),
        *((number, "one of all") for number in evenly(list(rows), MOST_SAMPLES)),
    ]
    found: dict[Any, str] = {}
    for number, why in reasons:
        if number in found or len(found) < MOST_SAMPLES:
            found.setdefault(number, why)
    return found
