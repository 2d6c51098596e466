"""Images without labels and what a teacher found in them, without a training."""

import json
from pathlib import Path
from typing import Any

from stages.artifacts import Dataset, ImagePool, PseudoLabels
from stages.collect import collect
from stages.config import DataConfig, DistillConfig
from stages.facts import write_facts
from stages.unlabeled_facts import PseudoClass, PseudoFacts

ALL = PseudoClass(accept=0.5, low=0.2, sure=0.7, num_objects=20, precision=0.9, recall=0.5)


def data_config(folder: Path, **options: Any) -> DataConfig:
    """The section data with a folder of images without labels."""
    return DataConfig.model_validate({"dataset": "digits", "unlabelled": str(folder), **options})


def pool(out: Path, dataset: Dataset, images: Path) -> ImagePool:
    """The pool of a folder."""
    out.mkdir(parents=True, exist_ok=True)
    return collect(out, data_config(images), dataset)


def labels(out: Path, dataset: Dataset, rows: list[dict[str, Any]], *, score: float = 0.9) -> PseudoLabels:
    """One object in the middle of every image, as sure as `score`."""
    out.mkdir(parents=True, exist_ok=True)
    contract = dataset.facts.contract
    found = [
        {"id": row["id"], "image_id": row["id"], "category_id": contract.category_ids[0], "bbox": [16.0, 16.0, 28.0, 30.0], "score": score}
        for row in rows
    ]
    (out / PseudoLabels.IMAGES).write_text(json.dumps({"images": rows, "annotations": found, "categories": []}))
    classes = dict.fromkeys(contract.classes, ALL)
    write_facts(out, PseudoFacts(split="val", num_images=len(rows), empty=0, classes=classes))
    return PseudoLabels(out)


def config(**options: Any) -> DistillConfig:
    """Distillation with unlabeled images, every loss at its full weight from the first step."""
    pseudo = {"warmup": 0.0, **(options.pop("pseudo", None) or {})}
    losses = options.pop("losses", [{"name": "attention", "weight": 0.5}])
    return DistillConfig.model_validate({"losses": losses, "warmup_steps": 0, "unlabelled": {"pseudo": pseudo, **options}})
