"""The report's section on the data: what was repaired, assumed, left out or divided, with pictures of the first cases."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deploy.errors import DataError
from deploy.prediction import image_files
from deploy.prediction.detections import class_names
from pipeline.report.boxes import MOST_TAGGED, objects_of, truth_view
from pipeline.report.pictures import Photo, photo_of
from stages.artifacts import Dataset, read_json
from stages.notes import Note, by_weight

MOST_SHOWN = 3
"""Pictures per kind of note."""
MOST_PICTURES = 24


@dataclass(frozen=True)
class NotedKind:
    """A note with pictures of its first cases, with all boxes as they were used."""

    note: Note
    photos: tuple[Photo, ...]


def noted_kinds(dataset: Dataset, notes: Sequence[Note] | None = None) -> list[NotedKind]:
    """Notes, by default the data set's, the most serious first; the first of them with pictures of images that can be read."""
    left = MOST_PICTURES
    kinds = []
    for note in by_weight(dataset.facts.notes if notes is None else notes):
        photos = tuple(_photos(dataset, note, min(MOST_SHOWN, left)))
        left -= len(photos)
        kinds.append(NotedKind(note, photos))
    return kinds


def _photos(dataset: Dataset, note: Note, most: int) -> Iterator[Photo]:
    """Pictures of a note's images; an image that was left out has no boxes."""
    if not note.images or note.split not in dataset.facts.splits:
        return
    coco = read_json(dataset.annotations(note.split))
    ids = {row["file_name"]: row["id"] for row in coco["images"]}
    names = class_names(coco)
    objects = objects_of(coco["annotations"], [ids[name] for name in note.images if name in ids])
    for name in note.images[:most]:
        try:
            pixels = image_files.load_image(dataset.images(note.split) / name, dataset.facts.contract.preprocessing)
        except DataError:  # the table has the note; an image that cannot be read is often what it is about
            continue
        view = truth_view(objects.get(ids[name], []) if name in ids else [], names)
        yield photo_of(name, pixels, [view], tags=len(view.boxes) <= MOST_TAGGED)
