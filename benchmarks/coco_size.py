"""Seconds and peak memory of everything that grows with the data, at several sizes up to COCO's.

Makes COCO folders of photographs, each a different crop, with polygons, then runs each phase in a process of its own: check, prepare
on one core and on all, the search for duplicates, the first batch of a training, evaluation, and a rerun that reuses the prepared data.
Finished phases are kept in --folder and not run again, so it can be stopped at any time. The last line is JSON: the phases of each size,
and the slope of each phase (1: seconds grow as the number of images does) between the smallest and the largest size.
Usage: python benchmarks/coco_size.py [--sizes 1000,10000,118287] [--distinct 2000] [--val 5000] [--folder DIR] [--input PX]
"""

import argparse
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from deploy.machine.parallel import mapped
from stages.datasets.digits import PHOTOGRAPHS
from stages.datasets.drawing import embedded

WIDTH, HEIGHT, MARGIN, STEP = 640, 480, 64, 4
OBJECTS, CORNERS, CLASSES = 7, 24, 80
DETECTIONS = 100
PLACES = (MARGIN // STEP) ** 2 // 2
"""Different crops of a photograph in each of the two splits."""
NAMES = sorted({name for names in PHOTOGRAPHS.values() for name in names})
ROOT = Path(__file__).parents[1]
Found = dict[str, Any]


def base(number: int) -> Image.Image:
    """One of the distinct photographs: a part of one that scikit-image brings along, larger than an image by a margin."""
    rng = np.random.default_rng(number)
    whole = embedded.photograph(NAMES[number % len(NAMES)]).convert("RGB")
    side = int(rng.integers(150, min(whole.size) + 1))
    x, y = int(rng.integers(0, whole.width - side + 1)), int(rng.integers(0, whole.height - side + 1))
    return whole.crop((x, y, x + side, y + side)).resize((WIDTH + MARGIN, HEIGHT + MARGIN), Image.Resampling.BICUBIC)


def crops(number: int, folder: Path, distinct: int, count: int, first: int) -> None:
    """Every image of a split that is cut from one photograph, except those that exist; `first` is the place of the first one."""
    missing = [index for index in range(number, count, distinct) if not (folder / f"{index:012}.jpg").exists()]
    whole = base(number) if missing else None
    for index in missing:
        place = first + index // distinct
        assert whole is not None
        left, top = place % (MARGIN // STEP) * STEP, place // (MARGIN // STEP) * STEP
        scratch = folder / f".{index}.part"
        whole.crop((left, top, left + WIDTH, top + HEIGHT)).save(scratch, "JPEG", quality=80)
        scratch.replace(folder / f"{index:012}.jpg")


def objects(image: int, first: int) -> list[Found]:
    """Objects of an image as COCO annotations, with polygons around ellipses."""
    draw = random.Random(image)  # noqa: S311 - not for secrets
    angles = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    rows = []
    for number in range(draw.randrange(2 * OBJECTS + 1)):
        width, height = draw.uniform(12, 300), draw.uniform(12, 300)
        x, y = draw.uniform(0, WIDTH - width), draw.uniform(0, HEIGHT - height)
        corners = np.stack((x + width / 2 * (1 + np.cos(angles)), y + height / 2 * (1 + np.sin(angles))), axis=1)
        box = {"bbox": [round(value, 2) for value in (x, y, width, height)], "area": round(width * height * math.pi / 4, 2), "iscrowd": 0}
        polygon = corners.round(2).ravel().tolist()
        rows.append({"id": first + number, "image_id": image, "category_id": draw.randrange(CLASSES) + 1, "segmentation": [polygon], **box})
    return rows


def make(root: Path, count: int, val: int, distinct: int) -> None:
    """A COCO folder of `count` training images; what exists is not made again."""
    if count > PLACES * distinct:
        raise SystemExit(f"{distinct} photographs have {PLACES * distinct} different crops, not {count}; raise --distinct")
    for split, number, offset, first in (("train", count, 0, 0), ("val", min(val, count), 10**7, PLACES)):
        images = root / split
        images.mkdir(parents=True, exist_ok=True)
        for _ in mapped(partial(crops, folder=images, distinct=distinct, count=number, first=first), range(min(distinct, number))):
            pass
        path = root / "annotations" / f"instances_{split}.json"
        if path.exists():
            continue
        rows: list[Found] = []
        for image in range(number):
            rows += objects(offset + image, len(rows) + 1)
        names = [{"id": offset + image, "file_name": f"{image:012}.jpg", "width": WIDTH, "height": HEIGHT} for image in range(number)]
        classes = [{"id": one + 1, "name": f"class {one}"} for one in range(CLASSES)]
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".part").write_text(json.dumps({"images": names, "annotations": rows, "categories": classes}), encoding="utf-8")
        path.with_suffix(".part").replace(path)


def config_of(root: Path, side: int) -> Any:
    """A pipeline on this folder."""
    from pipeline.config import load

    preprocessing = [f"data.preprocessing.{key}={side}" for key in ("height", "width")]
    settings = ["data.dataset=coco", f"data.root={root}", "data.max_doubtful=1", *preprocessing]
    return load(ROOT / "pipeline.yaml", settings)


def check(root: Path, runs: Path, side: int) -> Found:
    """`edgedistill check`, the part that looks at the data."""
    from pipeline.commands.check import data_findings

    return {"findings": len(data_findings(config_of(root, side), runs / "none"))}


def prepare(root: Path, runs: Path, side: int) -> Found:
    """The stage of this name; as `rerun`, it is reused."""
    from pipeline.store.store import Store
    from stages.prepare import prepare

    store = Store(runs, "size")
    made = store.run(prepare, config_of(root, side).data)
    return {"images": made.facts.splits["train"].num_images, "reused": store.records[0].reused}


def prepare_on_one_core(root: Path, runs: Path, side: int) -> Found:
    """The same stage with one process, into a folder of its own."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    alone = runs.with_name("runs-one-core")
    shutil.rmtree(alone, ignore_errors=True)
    return prepare(root, alone, side)


def duplicates(root: Path, runs: Path, side: int) -> Found:
    """The groups of images that look alike, once all are decoded."""
    from deploy.machine import known_files
    from stages.datasets.cleaning.image_file import ImageFile
    from stages.datasets.cleaning.images import scan
    from stages.datasets.splits.groups import group

    paths = sorted((root / "train").glob("*.jpg"))
    with known_files.kept_in(runs / ".store" / ".files.json"):
        files = [
            one for one in scan(paths, "look", config_of(root, side).data.preprocessing, fingerprints=True) if isinstance(one, ImageFile)
        ]
    began = perf_counter()
    grouped = group([path.name for path in paths], files, 0.1)
    return {"groups": len(grouped.groups), "seconds": perf_counter() - began}


def first_batch(root: Path, runs: Path, side: int) -> Found:
    """A training's images, from the prepared data to the first batch of 16 of two loader processes."""
    from stages.artifacts import Dataset
    from stages.config import TrainConfig
    from stages.training.batches.loader import TrainingImages, loader
    from stages.training.batches.streams import EpochBatches

    (prepared,) = (runs / ".store").glob("prepare-*")
    config = TrainConfig(batch_size=16)
    began = perf_counter()
    images = TrainingImages(Dataset(prepared), config, 0)
    supply = loader(images, EpochBatches(len(images), config.batch_size, 0, 0, 1), 2)
    list(islice(supply, 1))
    took = perf_counter() - began
    supply.close()
    return {"seconds": took}


def evaluation(root: Path, runs: Path, side: int) -> Found:
    """mAP of DETECTIONS boxes in each image of val, half of them near an object."""
    from deploy.accuracy import coco
    from stages.artifacts import Dataset
    from stages.measurement.splits import labeled_split

    (prepared,) = (runs / ".store").glob("prepare-*")
    split = labeled_split(Dataset(prepared), "val")
    draw = random.Random(0)  # noqa: S311 - not for secrets
    results = []
    near: dict[int, list[Found]] = {}
    for row in split.truth["annotations"]:
        near.setdefault(row["image_id"], []).append(row)
    for image in split.truth["images"]:
        own = near.get(image["id"], [])
        for number in range(DETECTIONS):
            like = own[number % len(own)] if own and number % 2 else None
            box = like["bbox"] if like else [draw.uniform(0, 500), draw.uniform(0, 400), draw.uniform(4, 140), draw.uniform(4, 80)]
            category = like["category_id"] if like else draw.randrange(CLASSES) + 1
            moved = [value * draw.uniform(0.9, 1.1) for value in box]
            results.append({"image_id": image["id"], "category_id": category, "bbox": moved, "score": draw.random()})
    classes = [row["name"] for row in split.truth["categories"]]
    began = perf_counter()
    accuracy, _ = coco.evaluate(split.truth, results, "val", classes)
    return {"seconds": perf_counter() - began, "detections": len(results), "map": accuracy.map}


PHASES: Mapping[str, Callable[[Path, Path, int], Found]] = {
    "check": check,
    "prepare_on_one_core": prepare_on_one_core,
    "prepare": prepare,
    "duplicates": duplicates,
    "first_batch": first_batch,
    "evaluation": evaluation,
    "rerun": prepare,
}


def run_phase(name: str, root: Path, runs: Path, side: int) -> Found:
    """A phase in this process: its seconds, and the peak memory of this process and of the largest that it started."""
    began = perf_counter()
    found = PHASES[name](root, runs, side)
    own, others = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"seconds": perf_counter() - began, "peak_mib": round(own), "peak_mib_of_processes": round(others), **found}


def measured(size: int, args: argparse.Namespace) -> dict[str, Found]:
    """Every phase at one size, each run or read from what is kept."""
    place = args.folder / str(size)
    root, runs, kept = place / "data", place / "runs", place / "phases.json"
    found: dict[str, Found] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    make(root, size, args.val, args.distinct)
    for name in PHASES:
        if name in found:
            continue
        if name == "prepare":
            shutil.rmtree(runs, ignore_errors=True)
        command = [sys.executable, "-P", str(Path(__file__)), "--phase", name, "--folder", str(place), "--input", str(args.input)]
        here = {**os.environ, "PYTHONPATH": str(ROOT)}
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=here)  # noqa: S603 - this file
        found[name] = json.loads(answer.stdout.splitlines()[-1])
        print(f"{size} images: {name}: {found[name]}", flush=True)
        kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def slopes(sizes: Mapping[int, Mapping[str, Found]]) -> dict[str, float | None]:
    """By phase, the exponent with which seconds grow from the smallest to the largest size; None for a single size."""
    low, high = min(sizes), max(sizes)
    if low == high:
        return dict.fromkeys(PHASES)
    growth = math.log(high / low)
    return {name: round(math.log(sizes[high][name]["seconds"] / max(sizes[low][name]["seconds"], 1e-6)) / growth, 3) for name in PHASES}


def main() -> None:
    """Print each phase, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,118287", help="numbers of training images")
    parser.add_argument("--distinct", type=int, default=2000, help="number of different photographs")
    parser.add_argument("--val", type=int, default=5000, help="number of val images, at most as many as of train")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "coco_size", help="where data and finished phases are kept")
    parser.add_argument("--input", type=int, default=320, help="sides of the network's input, in px")
    parser.add_argument("--phase", choices=sorted(PHASES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        print(json.dumps(run_phase(args.phase, args.folder / "data", args.folder / "runs", args.input)))
        return
    sizes = {size: measured(size, args) for size in sorted(map(int, args.sizes.split(",")))}
    print(json.dumps({"sizes": sizes, "slopes": slopes(sizes)}))


if __name__ == "__main__":
    main()
