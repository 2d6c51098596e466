"""Images without labels and what a teacher finds in them; what is printed of images: repairs, omissions, what speaks against using them."""

from collections.abc import Sequence

from deploy.errors import plain
from pipeline.config import PipelineConfig
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Dataset, ImagePool, PseudoLabels
from stages.collect import collect
from stages.config import DistillConfig
from stages.label import label
from stages.notes import Note, note_lines


def announce(notes: Sequence[Note], store: Store) -> None:
    """Print notes on images, one line each."""
    for line in note_lines(notes):
        store.say(line)


def warn(labels: PseudoLabels, store: Store) -> None:
    """Print what speaks against using images without labels, one line each; nothing in a dry run, which has no labels."""
    for line in () if store.mode.dry else labels.facts.warnings:
        store.say(plain(f"! unlabelled: {line}"))


def collected(config: PipelineConfig, store: Store, dataset: Dataset) -> ImagePool | None:
    """The images without labels; None if the configuration uses none."""
    if not config.uses_unlabelled:
        return None
    pool = store.run(collect, config.data, dataset)
    if not store.mode.dry:
        announce(pool.facts.notes, store)
    return pool


def labeled(
    config: PipelineConfig, store: Store, dataset: Dataset, pool: ImagePool | None, teacher: Checkpoint, taught: DistillConfig
) -> PseudoLabels | None:
    """What the teacher finds in the images without labels; None if the student that is `taught` learns nothing from them."""
    asked = taught.from_unlabelled
    if asked is None or pool is None:
        return None
    labels = store.run(label, asked.rule, config.device, config.validation.split, dataset, pool, teacher, config.export.decisions)
    warn(labels, store)
    return labels
