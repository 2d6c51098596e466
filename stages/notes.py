"""What a data set's preparation repaired, assumed or left out: nothing that changes the data is silent.

A reader names each kind once, as a constant, and counts every case. `run` prints the notes; they are in summary.json and the report.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deploy.contract import Frozen
from deploy.errors import plain

Action = Literal["divided", "repaired", "assumed", "left out"]
"""Divided: a split was made, as requested. Repaired: only one meaning was possible. Assumed: the likeliest of several meanings was
used. Left out: not used."""

Unit = Literal["images", "boxes", "masks", "files", "classes"]
_ONE: Mapping[Unit, str] = {"images": "image", "boxes": "box", "masks": "mask", "files": "file", "classes": "class"}
MAX_EXAMPLES = 5
MOST_LINES = 20
_ORDER = ("left out", "assumed", "repaired", "divided")


@dataclass(frozen=True)
class Kind:
    """A kind of note; `name` is its key in summary.json and starts its line: "missing image"."""

    name: str
    action: Action
    unit: Unit


class Note(Frozen):
    """`count` cases of a kind in a split; `examples` has the first few in words, `images` the file names of images to show.

    `total` is the number of the unit in the split, null if it is not known.
    """

    kind: str
    action: Action
    unit: Unit
    split: str
    count: int
    total: int | None = None
    examples: tuple[str, ...]
    images: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line: "train: left out: missing image: 9 of 12 images, first: images/x.jpg"."""
        of = "" if self.total is None else f" of {self.total}"
        unit = _ONE[self.unit] if (self.total or self.count) == 1 else self.unit
        return f"{self.split}: {self.action}: {self.kind}: {self.count}{of} {unit}, first: {self.examples[0]}"


class Notes:
    """Collects notes while data is read; iterating gives one Note per split and kind, in the order of their first cases."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, Kind], Note] = {}

    def add(self, kind: Kind, split: str, example: str, *, image: str | None = None, count: int = 1) -> None:
        """Count `count` more cases.

        Args:
            example: where, and what was done, in words; the first few are kept.
            image: the image's file_name, if the report can show the case.
        """
        key = split, kind
        old = self._found.get(key)
        examples, images = (old.examples, old.images) if old else ((), ())
        examples = (*examples, example)[:MAX_EXAMPLES]
        images = images if image is None or image in images else (*images, image)[:MAX_EXAMPLES]
        count += old.count if old else 0
        self._found[key] = Note(
            kind=kind.name, action=kind.action, unit=kind.unit, split=split, count=count, examples=examples, images=images
        )

    def __iter__(self) -> Iterator[Note]:
        return iter(tuple(self._found.values()))


def note_lines(notes: Sequence[Note]) -> list[str]:
    """One line per note, the most serious first; if there are very many, the last line counts the rest."""
    ordered = by_weight(notes)
    lines = [plain(f"data: {note}") for note in ordered[:MOST_LINES]]
    more = len(ordered) - len(lines)
    return lines + ([f"data: and {more} more kinds of notes, see summary.json"] if more else [])


def by_weight(notes: Sequence[Note]) -> list[Note]:
    """Notes on what was left out, then assumed, repaired, divided; otherwise in their order."""
    return sorted(notes, key=lambda note: _ORDER.index(note.action))


def reminder(notes: Sequence[Mapping[str, Any]]) -> str | None:
    """A line below the tables if anything was left out or assumed, for readers who no longer see the first lines of a run."""
    serious = sorted((one for one in notes if one["action"] in ("left out", "assumed")), key=lambda one: _ORDER.index(one["action"]))
    if not serious:
        return None
    first, more = Note.model_validate(serious[0]), len(serious) - 1
    others = f" (and {more} more {'note' if more == 1 else 'notes'})" if more else ""
    return f"! data: {first}{others}; see report.html"
