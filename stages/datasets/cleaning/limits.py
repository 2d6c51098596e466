"""How much of a split may be left out or rest on an assumption before the data is refused."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stages.datasets import Source
from stages.datasets.tables.rows import light
from stages.notes import Kind, Note, Unit

BOTH = Kind("image in two splits", "assumed", "images")
"""Its labels are not in doubt, and who lets a network learn what it is judged on may mean to."""
BAD_PART = Kind("unusable part of a mask", "left out", "masks")
"""The mask stays, and most such parts are specks of one or two points."""
_NOT_COUNTED = (BOTH.name, BAD_PART.name)

_COUNTED: tuple[Unit, ...] = ("images", "boxes", "masks", "files")
"""Units with a share that can be too large; a class that is left out is one of few."""


@dataclass(frozen=True)
class Doubt:
    """The share of a split's images, boxes, masks or files that is left out or assumed, and a sentence about it."""

    share: float
    text: str


def totals(source: Source) -> Mapping[Unit, int]:
    """The number of images, boxes, masks and classes as found: those of the dictionary, and those that its reader left out."""
    rows = light(source.coco["annotations"])
    found: dict[Unit, int] = {
        "images": len(source.coco["images"]),
        "boxes": len(rows),
        "masks": sum(bool(row.get("segmentation")) for row in rows),
        "classes": len(source.coco["categories"]),
    }
    for note in source.notes:
        if note.action == "left out" and note.unit in found:
            found[note.unit] += note.count
    return found


def with_totals(source: Source, cleaned: Iterable[Note]) -> tuple[Note, ...]:
    """The reader's notes and those of cleaning, each with the number of its unit in the split if that is known."""
    known = totals(source)
    return tuple(
        note if note.total is not None else note.model_copy(update={"total": known.get(note.unit)}) for note in (*source.notes, *cleaned)
    )


def doubts(split: str, source: Source, notes: Sequence[Note]) -> Iterator[Doubt]:
    """The share of each unit that is doubtful; several kinds of notes on one unit add up. Files of unknown number count per image."""
    known = totals(source)
    for unit in _COUNTED:
        own = [note for note in notes if note.unit == unit and note.action in ("left out", "assumed") and note.kind not in _NOT_COUNTED]
        if not own:
            continue
        total, stated = max(note.total or 0 for note in own), any(note.total for note in own)
        count = sum(note.count for note in own)
        share = min(1.0, count / max(1, total if stated else known["images"]))
        of = f"{count} of {total} {unit}" if stated and count <= total else f"{count} {unit}, with {known['images']} images,"
        kinds = ", ".join(f"{note.kind} {note.count}" for note in own)
        yield Doubt(share, f"{split}: {of} are left out or assumed ({kinds}), first: {own[0].examples[0]}")


def refusal(found: Iterable[Doubt], limit: float, remedy: str = "set data.max_doubtful to") -> str | None:
    """Why the data is refused: the largest share that exceeds `limit`, and how to go on (`remedy` and a share); None if none does."""
    worst = max(found, key=lambda one: one.share, default=None)
    if worst is None or worst.share <= limit:
        return None
    enough = math.ceil(worst.share * 100 - 1e-9) / 100
    return f"{worst.text}; mend the data, or {remedy} {enough:g} to go on"
