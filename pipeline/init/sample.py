"""How the images' files are to be decoded, and whether `prepare` would refuse the data: judged on a sample of the images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploy.contract import FULL_WHITE, MAX_PIXELS, MOST_PIXELS, Preprocessing
from deploy.errors import DataError
from pipeline.init.folder import LabeledFolder, evenly
from stages.datasets import Source
from stages.datasets.cleaning import clean, images, limits, pixels
from stages.datasets.cleaning.image_file import ImageFile
from stages.datasets.cleaning.images import Unusable
from stages.datasets.splits.arrange import arrange
from stages.notes import Note, Notes

MOST_DECODED, FEWEST_DECODED = 200, 20
MOST_PX = 1e9
"""Images to decode per split, and px: with very large images fewer are decoded."""

UNUSED = 4
"""A white is set if not even a quarter of the range of 16 bits is used, as the detector has it."""


@dataclass(frozen=True)
class Decoding:
    """The fields of data.preprocessing that are not at their defaults, and a comment for each; `notes` is what the sample showed."""

    fields: Mapping[str, Any]
    reasons: Sequence[str]
    notes: Sequence[Note] = ()

    @property
    def preprocessing(self) -> Preprocessing:
        """A contract that decodes like this."""
        return Preprocessing(**self.fields)


@dataclass(frozen=True)
class _Part:
    """Some images of a split with their objects; `whole` is the split."""

    split: str
    whole: Source
    source: Source

    def scanned(self, preprocessing: Preprocessing) -> list[ImageFile | Unusable]:
        paths = [self.source.images / str(row["file_name"]) for row in self.source.coco["images"]]
        return images.scan(paths, f"look at {self.split} images", preprocessing, fingerprints=True)


def decoding(folder: LabeledFolder, val_share: float | None, max_doubtful: float) -> Decoding:
    """Choose the fields, and judge the data as `prepare` will.

    Args:
        val_share: the share of train that will be held out, None if there is a val split.
        max_doubtful: the largest share of a split that may be left out or assumed, 0 to 1.

    Raises:
        DataError: the sample has more that is left out or assumed, or train cannot be divided.
    """
    parts = [_part(split, source, _most(folder)) for split, source in folder.sources.items()]
    fields, reasons = dict[str, Any](), list[str]()
    for field, value, reason in _found(folder, parts):
        fields[field] = value
        reasons.append(reason)
    chosen = Decoding(fields, reasons)
    doubts, notes = list[limits.Doubt](), list[Note]()
    for part in parts:
        found = _notes(part, chosen.preprocessing)
        notes += found
        held_out = val_share if part.split == "train" else None
        doubts += limits.doubts(part.split, part.whole, found if held_out is None else _divided(part, found, held_out))
    if refused := limits.refusal(doubts, max_doubtful, "pass --max-doubtful"):
        raise DataError(refused)
    if val_share is not None and len(folder.sources["train"].coco["images"]) <= _most(folder):
        arrange(folder.sources, {}, val_share, 0, chosen.preprocessing)
    return replace(chosen, notes=notes)


def _divided(part: _Part, notes: Sequence[Note], val_share: float) -> list[Note]:
    """The notes on images after a share is held out: files that cannot be read all stay in train, the others are divided."""
    every = len(part.whole.coco["images"])
    staying = [note for note in notes if note.kind in (images.MISSING.name, images.UNREADABLE.name)]
    held_out = round(val_share * (every - sum(note.count for note in staying)))
    divided = []
    for note in notes:
        count = note.count if note in staying else round(note.count * (1 - val_share))
        divided.append(note.model_copy(update={"count": count, "total": every - held_out}) if note.unit == "images" else note)
    return divided


def _most(folder: LabeledFolder) -> int:
    """How many images of a split are decoded."""
    return int(min(MOST_DECODED, max(FEWEST_DECODED, MOST_PX / max(1.0, float(folder.sizes.prod(axis=1).mean())))))


def _part(split: str, source: Source, most: int) -> _Part:
    rows = evenly(source.coco["images"], most)
    ids = {row["id"] for row in rows}
    objects = [row for row in source.coco["annotations"] if row["image_id"] in ids]
    return _Part(split, source, Source(source.images, {**source.coco, "images": rows, "annotations": objects}))


def _found(folder: LabeledFolder, parts: Sequence[_Part]) -> Iterator[tuple[str, Any, str]]:
    """Each field that is not at its default, with its value and the reason."""
    largest = max((width * height for width, height in _header_sizes(folder, parts)), default=0)
    most = min(MOST_PIXELS, largest)
    if most > MAX_PIXELS:
        yield "max_pixels", most, f"max_pixels: the largest image found has {largest / 1e6:.0f} million px."
    base = Preprocessing(max_pixels=max(MAX_PIXELS, most))
    blended = [file for part in parts for file in part.scanned(base) if isinstance(file, ImageFile)]
    top = max((file.stored.top for file in blended if file.stored.top is not None and not file.stored.blank), default=FULL_WHITE)
    if (top + 1) * UNUSED <= FULL_WHITE + 1:
        yield "white", top, f"white: 16-bit files with {math.log2(top + 1):.0f}-bit data, so {top} is white."
    hidden = sum(file.stored.hidden for file in blended)
    if not hidden:
        return
    ignoring = base.model_copy(update={"alpha": "ignore"})
    plain = [file for part in parts for file in part.scanned(ignoring) if isinstance(file, ImageFile)]
    if hidden > sum(one.look != other.look for one, other in zip(blended, plain, strict=True)) - hidden:
        yield "alpha", "ignore", f"alpha: {hidden} of {len(blended)} images looked at are transparent all over, and would be black."


def _header_sizes(folder: LabeledFolder, parts: Sequence[_Part]) -> Iterator[tuple[int, int]]:
    """Sizes in px from the headers of the sampled images, and of some that are large according to the annotations."""
    large = [
        source.images / str(row["file_name"])
        for source in folder.sources.values()
        for row in source.coco["images"]
        if _stated_px(row) > MAX_PIXELS
    ]
    sampled = [part.source.images / str(row["file_name"]) for part in parts for row in part.source.coco["images"]]
    for path in (*sampled, *evenly(large, MOST_DECODED)):
        measured = images.size(path)
        if measured is not None:
            yield measured


def _stated_px(row: Mapping[str, Any]) -> float:
    sides = [row.get(side) for side in ("width", "height")]
    return math.prod(side for side in sides if isinstance(side, int | float)) if None not in sides else 0


def _notes(part: _Part, preprocessing: Preprocessing) -> tuple[Note, ...]:
    """What reading the split and cleaning the sample noted; the sample's counts are those of the whole split."""
    files, notes = part.scanned(preprocessing), Notes()
    pixels.add(notes, part.split, images.stored(part.source.coco["images"], files), preprocessing)
    clean.clean(part.split, part.source, files, notes)
    factor = len(part.whole.coco["images"]) / max(1, len(files))
    estimated = [note.model_copy(update={"count": round(note.count * factor)}) for note in notes]
    return limits.with_totals(part.whole, estimated)
