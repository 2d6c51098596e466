"""Images per second that one core reads and prepares for training: our loader, torchvision's reference loader, and ours of another commit.

torchvision's is that of its references/detection: CocoDetection with the transforms v2 of DetectionPresetTrain for `hflip`, here with a
resize that keeps the aspect ratio, as ours has, and the normalization; "torchvision as it is" leaves both to the model, which does them
on the GPU, so it does less. Ours flips, too, and pads to the network's input. The images are JPEGs of 640 x 480 px, each read once per
round, in one process with one thread. Rounds are interleaved in random order; medians are compared. The last line is JSON: images per
second by input size and loader, and how many times as fast ours is, as median, lowest and highest of the rounds.
Usage: python benchmarks/loader.py [--before CHECKOUT] [--images 200] [--rounds 7] [--folder DIR]
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import IO, Any

ROOT = Path(__file__).parents[1]
SIZES = {"640 x 640": (640, 640), "800 x 1216": (800, 1216)}
"""Height and width of the network's input, in px."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OURS, REFERENCE, PLAIN, BEFORE = "ours", "torchvision", "torchvision as it is", "before"
WIDTH, HEIGHT = 640, 480
"""Of the images, in px."""

Read = Callable[[int, int], object]
"""Reads the image of an index in the view of an epoch."""


def ours(root: Path, scratch: Path, size: tuple[int, int]) -> Read:
    """The loader of the code that is imported, on data that it prepares itself."""
    from stages.artifacts import Dataset
    from stages.config import DataConfig, TrainConfig
    from stages.prepare import prepare

    try:
        from stages.training.batches.loader import TrainingImages
    except ModuleNotFoundError:  # its place in earlier versions
        from stages.training.loader import TrainingImages  # type: ignore[import-not-found,no-redef]

    fields = {"height": size[0], "width": size[1], "mean": MEAN, "std": STD}
    config = {"dataset": "coco", "root": str(root), "max_doubtful": 1, "preprocessing": fields}
    made = scratch / f"{size[0]}x{size[1]}"
    if not (made / "artifact.json").exists():
        made.mkdir(parents=True, exist_ok=True)
        prepare(made, DataConfig.model_validate(config))
    train = TrainConfig.model_validate({"augment": [{"name": "flip"}]})
    images = TrainingImages(Dataset(made), train, 0)
    images._bytes_left = 0  # noqa: SLF001 - nothing is kept: each round reads each file
    return lambda index, epoch: images[epoch, index]


def reference(root: Path, size: tuple[int, int] | None) -> Read:
    """torchvision's data set and transforms; without a size the network's part is left to it."""
    import torch
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2
    from torchvision.tv_tensors import BoundingBoxFormat

    scale = 1.0 if size is None else min(size[0] / HEIGHT, size[1] / WIDTH)
    steps = [
        v2.RandomHorizontalFlip(p=0.5),
        v2.Resize([round(HEIGHT * scale), round(WIDTH * scale)]),
        v2.PILToTensor(),
        v2.ToDtype(torch.float, scale=True),
        v2.ConvertBoundingBoxFormat(BoundingBoxFormat.XYXY),
        v2.SanitizeBoundingBoxes(),
        v2.ToPureTensor(),
        *([] if size is None else [v2.Normalize(MEAN, STD)]),
    ]
    found = CocoDetection(str(root / "train"), str(root / "annotations" / "instances_train.json"), transforms=v2.Compose(steps))
    images = wrap_dataset_for_transforms_v2(found, target_keys=("boxes", "labels", "image_id"))
    return lambda index, _: images[index]


def reader(side: str, root: Path, scratch: Path, size: tuple[int, int]) -> Read:
    """What a side reads images with."""
    if side in (REFERENCE, PLAIN):
        return reference(root, size if side == REFERENCE else None)
    return ours(root, scratch / side, size)


def labeled(root: Path) -> list[int]:
    """The places of the images that have objects; the reference leaves out the others."""
    found = json.loads((root / "annotations" / "instances_train.json").read_text(encoding="utf-8"))
    used = {row["image_id"] for row in found["annotations"]}
    return [place for place, image in enumerate(found["images"]) if image["id"] in used]


def answer(side: str, root: Path, scratch: Path) -> None:
    """In a process of its own: for each size that is asked for, read all images and answer with the seconds per image."""
    import torch

    torch.set_num_threads(1)
    readers = {name: reader(side, root, scratch, size) for name, size in SIZES.items()}
    places = labeled(root)
    print("ready", flush=True)
    for epoch, line in enumerate(sys.stdin):
        read = readers[line.strip()]
        began = perf_counter()
        for index in places:
            read(index, epoch)
        print((perf_counter() - began) / len(places), flush=True)


@contextmanager
def process(side: str, code: Path, args: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """A process that answers for a side, with the code of a checkout."""
    command = [sys.executable, str(Path(__file__)), "--side", side, "--folder", str(args.folder)]
    here = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=here) as started:  # noqa: S603 - this file
        while (line := _line(started.stdout)) != "ready":
            print(f"{side}: {line}", file=sys.stderr)
        yield started
        assert started.stdin is not None
        started.stdin.close()


def _line(file: IO[str] | None) -> str:
    line = "" if file is None else file.readline()
    if not line:
        raise SystemExit("a loader's process ended; its message is above")
    return line.strip()


def measured(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Images per second of each round, by size and side."""
    codes = {OURS: ROOT, REFERENCE: ROOT, PLAIN: ROOT} | ({} if args.before is None else {BEFORE: args.before})
    found: dict[str, dict[str, list[float]]] = {size: {side: [] for side in codes} for size in SIZES}
    order = random.Random(0)  # noqa: S311 - not for secrets
    with ExitStack() as stack:
        sides = {side: stack.enter_context(process(side, code, args)) for side, code in codes.items()}
        for number in range(args.rounds + 1):
            for size in SIZES:
                for side in order.sample(list(sides), len(sides)):
                    asked = sides[side]
                    assert asked.stdin is not None
                    asked.stdin.write(f"{size}\n")
                    asked.stdin.flush()
                    speed = 1 / float(_line(asked.stdout))
                    if number:  # the first round warms up
                        found[size][side].append(speed)
                        print(f"round {number}, {size}: {side} {speed:.1f} images per second", flush=True)
    return found


def summary(found: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """Medians, and how many times as fast ours is as each other one, as median, lowest and highest of the rounds."""
    answers: dict[str, Any] = {}
    for size, sides in found.items():
        ratios = {side: [a / b for a, b in zip(sides[OURS], speeds, strict=True)] for side, speeds in sides.items() if side != OURS}
        answers[size] = {
            "images_per_s": {side: round(statistics.median(speeds), 1) for side, speeds in sides.items()},
            "times_as_fast_as": {
                side: [round(value, 3) for value in (statistics.median(own), min(own), max(own))] for side, own in ratios.items()
            },
        }
    return answers


def main() -> None:
    """Print each round, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of another commit, whose loader is measured, too")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "loader", help="where images and prepared data are kept")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder = args.folder / str(args.images) if args.side is None else args.folder
    if args.side is not None:
        answer(args.side, args.folder / "data", args.folder)
        return
    from coco_size import make

    make(args.folder / "data", args.images, 10, args.images)
    print(json.dumps(summary(measured(args))))


if __name__ == "__main__":
    main()
