"""What is printed of images: what was repaired, assumed or left out, and what speaks against using those without labels."""

from collections.abc import Sequence

from deploy.errors import plain
from pipeline.store.store import Store
from stages.artifacts import PseudoLabels
from stages.notes import Note, note_lines


def announce(notes: Sequence[Note], store: Store) -> None:
    """Print notes on images, one line each."""
    for line in note_lines(notes):
        store.say(line)


def warn(labels: PseudoLabels, store: Store) -> None:
    """Print what speaks against using images without labels, one line each; nothing in a dry run, which has no labels."""
    for line in () if store.mode.dry else labels.facts.warnings:
        store.say(plain(f"! unlabelled: {line}"))
