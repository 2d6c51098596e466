"""What the teacher finds in images without labels, and which of it may serve as targets."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.artifacts import DETECTIONS, Checkpoint, Dataset, ImagePool, PseudoLabels, read_json
from stages.config import ExportConfig, UnlabelledConfig
from stages.facts import write_facts
from stages.measurement.splits import labeled_split
from stages.measurement.thresholds import choose
from stages.stage import stage
from stages.unlabeled_facts import PseudoClass, PseudoFacts

MOST_UNLIKE = 0.5
"""A larger share of images unlike the labeled ones is warned of."""
LEAST_PRECISION = 0.5
"""A lower precision of a class's targets on the judged split is warned of."""
MOST_NAMED = 5
"""Classes that a warning names."""


@stage(version=2)
def label(
    out: Path,
    config: UnlabelledConfig,
    device: str,
    split: str,
    dataset: Dataset,
    pool: ImagePool,
    teacher: Checkpoint,
    export: ExportConfig,
) -> PseudoLabels:
    """All detections of the teacher in the pool; thresholds are chosen on its detections in `split`.

    Raises:
        DataError: thresholds cannot be chosen, for want of labeled objects; a file has become unusable.
        ArtifactError: an answer is invalid.
    """
    # Imported here: a stage that is reused must not import torch.
    from stages.training.checkpoint import load_detector
    from stages.training.device import device_of
    from stages.training.unlabeled.domain import unlike
    from stages.training.unlabeled.finding import Finder
    from stages.training.unlabeled.looking import looked

    network = load_detector(teacher).to(device_of(device))
    rows, contract = pool.images(), dataset.facts.contract
    finder = Finder(network, contract, export)
    look = looked(finder, labeled_split(dataset, split), read_json(teacher.file(DETECTIONS)), contract, config.pseudo)
    found = finder.find([(row["id"], Path(row["file_name"])) for row in rows], look.views, "label unlabeled images")
    classes: dict[str, PseudoClass] = {}
    if config.pseudo is not None:
        chosen = choose(look.truth, look.results, config.pseudo)
        classes = counted(chosen, found, dict(zip(contract.category_ids, contract.classes, strict=True)))
    accepted = {one["image_id"] for one in found if _is_target(one, classes, dataset)}
    share = unlike(network, dataset, split, rows)
    _write(out, _named_from(out, pool, rows), found, dataset)
    facts = PseudoFacts(
        split=split,
        num_images=len(rows),
        empty=len(rows) - len(accepted),
        classes=classes,
        unlike=share,
        views=look.views,
        map=look.map,
        plain_map=look.plain_map,
    )
    write_facts(out, facts.model_copy(update={"warnings": tuple(warnings(facts))}))
    return PseudoLabels(out)


def counted(chosen: dict[str, PseudoClass], found: list[dict[str, Any]], names: dict[int, str]) -> dict[str, PseudoClass]:
    """The thresholds with the numbers of detections that they accept and ignore."""
    totals = {name: [0, 0] for name in chosen}
    for one in found:
        own = chosen[names[one["category_id"]]]
        if own.accept is not None and one["score"] >= own.accept:
            totals[names[one["category_id"]]][0] += 1
        elif own.low is None or one["score"] >= own.low:
            totals[names[one["category_id"]]][1] += 1
    return {name: one.model_copy(update={"accepted": totals[name][0], "ignored": totals[name][1]}) for name, one in chosen.items()}


def warnings(facts: PseudoFacts) -> list[str]:
    """What speaks against using these images or labels, one line each."""
    lines = []
    if facts.unlike is not None and facts.unlike > MOST_UNLIKE:
        lines.append(
            f"{facts.unlike:.0%} of the unlabeled images are unlike the labeled ones ({facts.expected:.0%} would be by chance): "
            "they may be of a different camera or subject, and then using them can cost accuracy"
        )
    never = [name for name, one in facts.classes.items() if one.accept is None]
    wrong = {name: one.precision for name, one in facts.classes.items() if one.precision is not None and one.precision < LEAST_PRECISION}
    if never:
        lines.append(f"no detection of {_named(never)} is sure enough to be a target, by its precision on {facts.split}")
    if wrong:
        shares = [f"{name} ({share:.0%})" for name, share in wrong.items()]
        lines.append(f"less than half of the accepted detections on {facts.split} are objects: {_named(shares)}")
    if facts.classes and not any(one.accepted for one in facts.classes.values()):
        lines.append("no detection in the unlabeled images is accepted as a target")
    return lines


def _named(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _is_target(one: dict[str, Any], classes: dict[str, PseudoClass], dataset: Dataset) -> bool:
    contract = dataset.facts.contract
    own = classes.get(contract.classes[contract.category_ids.index(one["category_id"])])
    return own is not None and own.accept is not None and one["score"] >= own.accept


def _named_from(out: Path, pool: ImagePool, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with the names of files inside the pool's folder relative to another folder."""
    inside = pool.root.resolve()
    paths = [Path(row["file_name"]) for row in rows]
    names = [os.path.relpath(path, out.resolve()) if path.is_relative_to(inside) else str(path) for path in paths]
    return [{**row, "file_name": name} for row, name in zip(rows, names, strict=True)]


def _write(out: Path, rows: list[dict[str, Any]], found: list[dict[str, Any]], dataset: Dataset) -> None:
    kept = ("image_id", "category_id", "bbox", "score", "segmentation")
    boxes = [{"id": number, **{key: one[key] for key in kept if key in one}} for number, one in enumerate(found, 1)]
    coco = {"images": rows, "annotations": boxes, "categories": dataset.facts.contract.categories}
    (out / PseudoLabels.IMAGES).write_text(json.dumps(coco), encoding="utf-8")
