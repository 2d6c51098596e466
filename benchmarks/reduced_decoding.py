"""What `data.preprocessing.reduced_decoding` costs in mAP: networks trained with it and without, each judged both ways.

Digits on photographs of 512 px, seen by the network at 128 px, so that a JPEG is decoded at a quarter of its sides: the most that the
option can save there. The network and its training are those of pipeline.yaml's student without a teacher. Finished trainings are kept
in runs/ and not repeated. The last line is JSON: mAP by seed, training and judging, and the mean differences to doing without.
Usage: python benchmarks/reduced_decoding.py [--seeds 3] [--images 2000] [--epochs 5]
"""

import argparse
import json
import statistics
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.config import PipelineConfig, load
from pipeline.store.store import Store
from stages.artifacts import Dataset
from stages.measurement.torch_accuracy import evaluate
from stages.prepare import prepare
from stages.train import train_baseline
from stages.training.checkpoint import load_detector

ROOT = Path(__file__).parents[1]
IMAGE_PX, INPUT_PX = 512, 128
KINDS = {False: "full", True: "reduced"}


def config_of(args: argparse.Namespace, *, reduced: bool) -> PipelineConfig:
    """The student's pipeline on large images."""
    sizes = [f"data.image_size={IMAGE_PX}", f"data.min_size={28 * IMAGE_PX // INPUT_PX}", f"data.max_size={60 * IMAGE_PX // INPUT_PX}"]
    fields = {"height": INPUT_PX, "width": INPUT_PX, "reduced_decoding": str(reduced).lower()}
    counts = [f"data.train_images={args.images}", f"student.train.epochs={args.epochs}"]
    return load(ROOT / "pipeline.yaml", [*sizes, *counts, *(f"data.preprocessing.{key}={value}" for key, value in fields.items())])


def measured(args: argparse.Namespace) -> dict[str, list[float]]:
    """mAP of each seed, by "<training>, judged <judging>"."""
    store = Store(ROOT / "runs", "benchmark-reduced-decoding")
    configs = {reduced: config_of(args, reduced=reduced) for reduced in KINDS}
    data: dict[bool, Dataset] = {reduced: store.run(prepare, config.data) for reduced, config in configs.items()}
    found: dict[str, list[float]] = {}
    for seed, trained in product(range(args.seeds), KINDS):
        config = configs[trained]
        options = config.export.decisions
        checkpoint = store.run(train_baseline, config.student, seed, "cpu", config.validation.split, data[trained], options)
        for judged, name in KINDS.items():
            with TemporaryDirectory() as scratch:
                reached = evaluate(Path(scratch), load_detector(checkpoint), data[judged], config.validation.split, options).map
            found.setdefault(f"{KINDS[trained]}, judged {name}", []).append(round(float(reached or 0), 4))
            print(f"seed {seed}: trained {KINDS[trained]}, judged {name}: mAP {reached:.4f}", flush=True)
    return found


def main() -> None:
    """Print each mAP, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    found = measured(parser.parse_args())
    full = found["full, judged full"]
    costs: dict[str, Any] = {name: round(statistics.fmean(a - b for a, b in zip(own, full, strict=True)), 4) for name, own in found.items()}
    print(json.dumps({"map": found, "mean_difference": costs}))


if __name__ == "__main__":
    main()
