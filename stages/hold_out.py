"""Holds a part of the training images out of them, to choose settings on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.errors import DataError
from stages.artifacts import TABLES, Dataset, read_json
from stages.datasets import Source
from stages.datasets.splits.arrange import held_out
from stages.datasets.tables import coco_file, table
from stages.facts import DatasetFacts, Split, write_facts
from stages.stage import stage

TUNING = "tuning"
"""The split of the images held out."""


@stage(version=1)
def hold_out(out: Path, dataset: Dataset, share: float, seed: int) -> Dataset:
    """Split train without the images held out, and those as split tuning; images that look alike are on one side.

    Raises:
        DataError: there are too few images.
    """
    facts = dataset.facts
    whole = Source(dataset.images("train"), read_json(dataset.annotations("train")))
    try:
        kept, held = held_out(whole, share, seed, facts.contract.preprocessing)
    except DataError as error:
        why = str(error).partition(f"{share:g}: ")[2].partition(";")[0]
        raise DataError(f"no images can be held out of train to tune on: {why}; name a labeled split with compare.tuning_split") from error
    images = facts.splits["train"].images
    # The folder of the images stays where it is; a relative one is the data set's, which is a sibling in the store.
    images = images if Path(images).is_absolute() else f"../{dataset.root.name}/{images}"
    labels = {category: label for label, category in enumerate(facts.contract.category_ids)}
    splits = {name: _write(out, name, source.coco, images, labels) for name, source in (("train", kept), (TUNING, held))}
    write_facts(out, DatasetFacts(contract=facts.contract, splits=splits))
    return Dataset(out)


def _write(out: Path, name: str, coco: Any, images: str, labels: Mapping[int, int]) -> Split:
    table.write(out / TABLES / name, coco, labels)
    file = f"annotations/{name}.json"
    coco_file.write(out / file, coco)
    return Split(images=images, annotations=file, num_images=len(coco["images"]), num_boxes=len(coco["annotations"]))
