"""The images of the study of images without labels: which are labeled, unlabeled, val and test at a seed."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from run import RUNS
from unlabeled_units import CEILING, FOREIGN, LABELED_NUCLEI, TESTED, UNLABELED_DIGITS, UnlabeledUnit, study_file, teacher_seed

from deploy.machine import known_files
from pipeline.config import load
from pipeline.store.store import Store
from stages.artifacts import Dataset, read_json
from stages.config import DataConfig
from stages.datasets import Source
from stages.datasets.splits.arrange import held_out
from stages.prepare import prepare

Item = tuple[Path, Mapping[str, Any], Sequence[Mapping[str, Any]]]
"""An image's file, its COCO row and its annotations."""


def items(dataset: Dataset, split: str) -> list[Item]:
    """A split's images with their annotations."""
    coco = read_json(dataset.annotations(split))
    own: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    for one in coco["annotations"]:
        own[one["image_id"]].append(one)
    return [(dataset.images(split) / image["file_name"], image, own[image["id"]]) for image in coco["images"]]


def divided(unit: UnlabeledUnit, store: Store) -> tuple[Dataset, dict[str, list[Item]]]:
    """The data as it is, and its images: labeled, unlabeled, val and test."""
    config = unit.config.data
    whole = store.run(prepare, config)
    val = items(whole, "val")
    if unit.study == "digits":
        train = items(whole, "train")
        more = DataConfig.model_validate({**config.model_dump(), "train_images": len(train) + UNLABELED_DIGITS})
        # of the same seed: with another one, digits of val and test would be among them
        other = items(store.at("unlabeled").run(prepare, more), "train")[len(train) :]
        return whole, {"train": train, "unlabeled": other, "val": val, "test": items(whole, "test")}
    if unit.study == "bccd":
        pool = items(whole, "train") + items(whole, "test")
        pool.sort(key=lambda item: hashlib.sha256(item[0].name.encode()).hexdigest())
        parts = [pool[number::5] for number in range(5)]
        own, tested = unit.seed % 5, (unit.seed + 1) % 5
        rest = [one for number, part in enumerate(parts) if number not in (own, tested) for one in part]
        return whole, {"train": parts[own], "unlabeled": rest, "val": val, "test": parts[tested]}
    rest, test = _by_cluster(whole, items(whole, "train"), TESTED, seed=0)
    rest, train = _by_cluster(whole, rest, LABELED_NUCLEI, seed=unit.seed)
    return whole, {"train": train, "unlabeled": rest, "val": val, "test": test}


def _by_cluster(whole: Dataset, given: Sequence[Item], count: int, seed: int) -> tuple[list[Item], list[Item]]:
    """The others, and about `count` images held out; pictures that look alike stay together."""
    categories = read_json(whole.annotations("train"))["categories"]
    images = [{**row, "file_name": str(path)} for path, row, _ in given]
    coco = {"images": images, "annotations": [one for _, _, own in given for one in own], "categories": categories}
    with known_files.kept_in(RUNS / ".store" / ".files.json"):  # the images are compared once, not for each network
        _, held = held_out(Source(Path("/"), coco), count / len(given), seed, whole.facts.contract.preprocessing)
    chosen = {row["id"] for row in held.coco["images"]}
    return [one for one in given if one[1]["id"] not in chosen], [one for one in given if one[1]["id"] in chosen]


def prepared(unit: UnlabeledUnit, store: Store) -> DataConfig:
    """COCO's layout with the unit's splits, and the images without labels next to it; the ceiling has all of them in train."""
    whole, parts = divided(unit, store)
    seed = teacher_seed(unit.study, unit.seed)  # the same images: the same folder, so that what is made of them is found again
    root = RUNS / "unlabeled" / f"{unit.study}-{seed}{'-ceiling' if unit.role == CEILING else ''}"
    shutil.rmtree(root, ignore_errors=True)
    categories = read_json(whole.annotations("train"))["categories"]
    if unit.role == CEILING:
        parts["train"] = parts["train"] + parts["unlabeled"]
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val", "test"):
        _write(root, split, parts[split], categories)
    folder = root / ("foreign" if unit.role == FOREIGN else "unlabeled")  # the labeled images stay where they are, so teachers are reused
    folder.mkdir()
    other = foreign(store, len(parts["unlabeled"])) if unit.role == FOREIGN else parts["unlabeled"]
    for place, (path, _, _) in enumerate(other):
        (folder / f"{place:04}-{path.name}").symlink_to(path.resolve())
    given = {"dataset": "coco", "root": str(root), "preprocessing": whole.facts.contract.preprocessing}
    return DataConfig.model_validate({**given, "unlabelled": str(folder)})


def foreign(store: Store, count: int) -> list[Item]:
    """Photographs with digits."""
    config = load(study_file("digits")).data
    return items(store.at("foreign").run(prepare, DataConfig.model_validate({**config.model_dump(), "train_images": count})), "train")


def _write(root: Path, split: str, chosen: Sequence[Item], categories: Sequence[Mapping[str, Any]]) -> None:
    (root / "images" / split).mkdir(parents=True)
    made: dict[str, list[Mapping[str, Any]]] = {"images": [], "annotations": [], "categories": list(categories)}
    for key, (path, image, own) in enumerate(chosen, 1):
        name = f"{key:04}-{path.name}"
        (root / "images" / split / name).symlink_to(path.resolve())
        made["images"].append({**image, "id": key, "file_name": name})
        for one in own:
            made["annotations"].append({**one, "id": len(made["annotations"]) + 1, "image_id": key})
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(made), encoding="utf-8")
