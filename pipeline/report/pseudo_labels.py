"""The report's section on images without labels: what the teacher found in them, what of it was learned, with pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.accuracy.spread import spread
from deploy.errors import DataError
from deploy.prediction import image_files
from deploy.prediction.detections import by_image, class_names, corners
from pipeline.report.boxes import MatchedObject, truth_view
from pipeline.report.pictures import Photo, photo_of
from pipeline.results.pseudo_labels import HEADER, pseudo_rows
from pipeline.results.table import UNDEFINED, number
from pipeline.run_result import RunResult
from stages.artifacts import Dataset, PseudoLabels
from stages.unlabeled_facts import PseudoFacts

NUM_PICTURES = 6


@dataclass(frozen=True)
class PseudoSection:
    """The table, and pictures in which targets have plain boxes and what is ignored dashed ones."""

    header: tuple[str, ...]
    rows: list[list[str]]
    facts: PseudoFacts
    photos: list[Photo]


def pseudo_labels(run: RunResult) -> PseudoSection | None:
    """The section; None if the student learned nothing from images without labels."""
    if run.labels is None:
        return None
    facts = run.labels.facts
    photos = list(_photos(run.labels, facts, run.dataset)) if facts.classes else []
    return PseudoSection(HEADER, pseudo_rows(facts.model_dump(mode="json"), number, UNDEFINED), facts, photos)


def _photos(labels: PseudoLabels, facts: PseudoFacts, dataset: Dataset) -> Iterator[Photo]:
    coco = labels.coco()
    names = class_names(coco)
    rows = spread(coco["images"], NUM_PICTURES)
    found = by_image(coco["annotations"], [row["id"] for row in rows])
    for row in rows:
        try:
            pixels = image_files.load_image(Path(row["file_name"]), dataset.facts.contract.preprocessing)
        except DataError:  # the file has gone since it was labeled; the table has the figures
            continue
        shown = [box for one in found[row["id"]] if (box := _box(one, facts, names)) is not None]
        yield photo_of(Path(row["file_name"]).name, pixels, [truth_view(shown, names)])


def _box(one: Any, facts: PseudoFacts, names: dict[int, str]) -> MatchedObject | None:
    """A target, or a box of doubt as a crowd; None for what counts as background."""
    limits, score = facts.classes[names[one["category_id"]]], one["score"]
    if limits.accept is not None and score >= limits.accept:
        return MatchedObject(corners(one["bbox"]), one["category_id"], score)
    if limits.low is None or score >= limits.low:
        return MatchedObject(corners(one["bbox"]), one["category_id"], score, crowd=True)
    return None
