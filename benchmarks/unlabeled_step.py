"""How long a training step with images without labels takes, compared with the step of the same distillation on labeled images only.

Both trainings read their images, prepare their views and take their steps as `run` does, alternately and without loader processes, so
that on one core everything counts. Labeled images stand for those without labels, their objects for detections. The networks have fresh
weights, and learn from pseudo-labels at full weight from the first step. The last line is JSON: milliseconds per step by kind, and how
many times as long as the step on labeled images only each takes, with its 95% interval; the limit for "both" is 2.1.
Usage: taskset -c 1 python benchmarks/unlabeled_step.py [--config FILE] [--set KEY=VALUE ...] [--ratio 1] [--rounds 60] [--profile KIND]
"""

import argparse
import cProfile
import json
import pstats
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from deploy.comparison.bootstrap import blocks
from pipeline.config import PipelineConfig, load
from pipeline.store.store import Store
from stages.artifacts import Dataset, PseudoLabels, read_json
from stages.config import DistillConfig, StudentConfig, UnlabelledConfig
from stages.facts import write_facts
from stages.prepare import prepare
from stages.training.batches.loader import TrainingBatch
from stages.training.checkpoint import build_detector
from stages.training.loop import Trainer
from stages.training.unlabeled.plan import Judging, student_task
from stages.unlabeled_facts import PseudoClass, PseudoFacts

ROOT = Path(__file__).parents[1]
LABELED = "labeled only"
KINDS: Mapping[str, dict[str, Any] | None] = {LABELED: None, "features": {"pseudo": None}, "pseudo": {"features": False}, "both": {}}
SURE = PseudoClass(accept=0.5, low=0.5, sure=0.5, num_objects=0, precision=None, recall=None)
SETTINGS = ("data.val_images=8", "data.test_images=8")
"""Of the digits' pipeline files, whose images are drawn when they are asked for."""
LIMIT = 2.1


def detections(folder: Path, dataset: Dataset) -> PseudoLabels:
    """The objects of split train as if a teacher were sure of having found them."""
    coco, classes = read_json(dataset.annotations("train")), dataset.facts.contract.classes
    rows = [{**row, "file_name": str(dataset.images("train") / row["file_name"])} for row in coco["images"]]
    found = [{key: one[key] for key in ("id", "image_id", "category_id", "bbox")} | {"score": 1.0} for one in coco["annotations"]]
    text = json.dumps({"images": rows, "annotations": found, "categories": coco["categories"]})
    (folder / PseudoLabels.IMAGES).write_text(text, encoding="utf-8")
    write_facts(folder, PseudoFacts(split="val", num_images=len(rows), empty=0, classes=dict.fromkeys(classes, SURE)))
    return PseudoLabels(folder)


def trainer(kind: str, config: PipelineConfig, dataset: Dataset, labels: PseudoLabels, args: argparse.Namespace, folder: Path) -> Trainer:
    """A training of this kind, with a teacher of fresh weights."""
    section = KINDS[kind]
    own = None if section is None else UnlabelledConfig.model_validate({"pseudo": {"warmup": 0.0}, **section, "ratio": args.ratio})
    given = config.distill.model_dump(exclude={"unlabelled"})
    taught = DistillConfig.model_validate({**given, "shares_every": 0, "unlabelled": own})
    train = config.student.train.model_copy(update={"learning_rate": 1e-6, "workers": 0})  # nothing is to be learned, or to diverge
    student = StudentConfig(detector=config.student.detector, train=train)
    classes = len(dataset.facts.contract.classes)
    small, large = (build_detector(choice, classes, 0, pretrained=False) for choice in (student.detector, config.teacher.detector))
    judging = Judging(dataset, "val", config.export.decisions)
    task = student_task(small, large, taught, train, 0, judging, None if own is None else labels)
    return Trainer(task.train(), dataset, train, seed=0, device="cpu", folder=folder, label=kind)


class Training:
    """Takes steps, epoch after epoch, and says how long each took."""

    def __init__(self, given: Trainer) -> None:
        self._trainer = given
        self._supply = self._batches()

    def _batches(self) -> Iterator[TrainingBatch]:
        while True:
            yield from self._trainer._loaded()  # noqa: SLF001 - the very objects that a training uses
            self._trainer._batches.epoch += 1  # noqa: SLF001

    def step(self) -> float:
        """Seconds of processor time of a step, reading its images included."""
        began = process_time()
        self._trainer.step(next(self._supply))
        return process_time() - began


def measured(trainings: Mapping[str, Training], warmup: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per step by kind, measured alternately in random order, after `warmup` steps in which images are read for the first time."""
    for training in trainings.values():
        for _ in range(warmup):
            training.step()
    taken: dict[str, list[float]] = {kind: [] for kind in trainings}
    order = random.Random(0)  # noqa: S311 - not for secrets
    for _ in range(rounds):
        for kind in order.sample(list(trainings), len(trainings)):
            taken[kind].append(trainings[kind].step())
    return taken


def summary(taken: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians, and their ratios to the step on labeled images only with 95% intervals."""
    times = {kind: np.array(values)[:, None] for kind, values in taken.items()}
    ratios = {}
    for kind in [one for one in times if one != LABELED]:
        found = blocks(times[kind], times[LABELED], lambda values: np.asarray(np.median(values, axis=-1)), relative=True, error_rate=0.025)
        ratios[kind] = [round(1 + one, 3) for one in (found.change, found.low, found.high)]
    ms = {kind: round(float(np.median(values)) * 1000, 2) for kind, values in times.items()}
    return {"ms": ms, "ratio": ratios, "within_limit": ratios["both"][0] <= LIMIT}


def main() -> None:
    """Print a line per kind, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "benchmarks" / "evidence" / "unlabeled" / "digits.yaml")
    parser.add_argument("--set", action="append", default=[], help="settings of the file, such as data.train_images=20")
    parser.add_argument("--ratio", type=float, default=1.0, help="unlabeled images per labeled one")
    parser.add_argument("--rounds", type=int, default=60, help="steps of each kind")
    parser.add_argument("--profile", choices=[*KINDS], help="print where the time of such a step goes instead")
    args = parser.parse_args()
    config = load(args.config, args.set)
    if config.data.dataset == "digits":
        config = load(args.config, [*SETTINGS, *args.set])
    dataset = Store(ROOT / "runs", "unlabeled_step").run(prepare, config.data.labeled)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = detections(folder, dataset)
        chosen = KINDS if args.profile is None else (args.profile,)
        trainings = {kind: Training(trainer(kind, config, dataset, labels, args, folder)) for kind in chosen}
        warmup = 3 + len(labels.coco()["images"]) // config.student.train.batch_size
        if args.profile is not None:
            measured(trainings, warmup, 0)
            with cProfile.Profile() as profile:
                measured(trainings, 0, args.rounds)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(140)
            return
        found = summary(measured(trainings, warmup, args.rounds))
    for kind, ms in found["ms"].items():
        more = "" if kind == LABELED else " ({:.2f} times as long, {:.2f} to {:.2f})".format(*found["ratio"][kind])
        print(f"{kind}: {ms:.1f} ms{more}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
