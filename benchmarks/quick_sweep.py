"""How long the quick sweep over a split's corrupted images takes, in times of validating the split ten times.

Teacher, student and baseline of pipeline.yaml on photographs in COCO's layout, as engines in fp32 and int8; one epoch of training unless
--set says otherwise. Both are timed in turns; the sweep corrupts images on all cores that the process may use, and engines have
--threads threads each. The last line is JSON: seconds of each turn, and the median of the ratios.
Usage: python benchmarks/quick_sweep.py [FOLDER] [--images 200] [--turns 3] [--threads 1] [--set KEY=VALUE ...]
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.accuracy import corruptions
from deploy.accuracy.conditions import num_swept, sweep
from deploy.accuracy.judge import LabeledSplit, judge
from deploy.prediction.predictor import SessionPredictor
from deploy.progress import Steps
from pipeline.config import load
from pipeline.config.derived import reference
from pipeline.store.store import Store
from stages.artifacts import Engine
from stages.config import TargetConfig
from stages.export import export
from stages.measurement.robust import detect_under
from stages.measurement.sessions import open_session
from stages.measurement.splits import labeled_split, some
from stages.optimize import judging, optimize
from stages.prepare import prepare
from stages.train import train_baseline, train_teacher

ROOT = Path(__file__).parents[1]


def built(args: argparse.Namespace, root: Path) -> tuple[dict[str, Engine], LabeledSplit]:
    """The engines that a run would judge, and images of split val."""
    data = [f"data={{dataset: coco, root: {args.folder.resolve()}, preprocessing: {{height: 256, width: 320}}}}", "robustness={}"]
    config = load(ROOT / "pipeline.yaml", [*data, "teacher.train.epochs=1", "student.train.epochs=1", *args.set])
    store, seed, split = Store(root, "quick-sweep"), config.seed, config.validation.split
    dataset = store.run(prepare, config.data)
    decisions = config.export.decisions
    teacher = store.run(train_teacher, config.teacher, seed, "cpu", split, dataset, decisions)
    student = store.run(train_baseline, config.student, seed, "cpu", split, dataset, decisions)
    graphs = {name: store.at(name).run(export, config.export, one) for name, one in (("teacher", teacher), ("student", student))}
    targets = {name: TargetConfig.model_validate({"name": name, "runtime": "ort", "precision": name}) for name in ("fp32", "int8")}
    builds = [(one, graphs["student"]) for one in targets.values()]
    builds += [(reference("teacher"), graphs["teacher"]), (reference("baseline"), graphs["student"])]
    how = config.validation
    engines = {one.name: store.at(one.name).run(optimize, one, graph, dataset, *judging(one, how)) for one, graph in builds}
    return engines, some(labeled_split(dataset, split), args.images)


def tenfold(split: LabeledSplit) -> LabeledSplit:
    """Each image ten times, under ids of its own."""
    images, annotations = [], []
    for copy in range(10):
        shift = copy * 10_000_000
        images += [{**one, "id": one["id"] + shift} for one in split.truth["images"]]
        annotations += [{**one, "id": one["id"] + shift, "image_id": one["image_id"] + shift} for one in split.truth["annotations"]]
    return LabeledSplit(split.name, {**split.truth, "images": images, "annotations": annotations}, split.images * 10)


def timed(predictors: Mapping[str, SessionPredictor], split: LabeledSplit) -> tuple[float, float]:
    """Seconds of the quick sweep over the split, and of validating it ten times."""
    conditions, many = sweep(split.name, "quick"), tenfold(split)
    swept = some(split, num_swept("quick", len(split.images)))
    began = time.perf_counter()
    with Steps("sweep", len(conditions) * len(swept.images)) as steps:
        for _ in detect_under(conditions, predictors, swept, steps):
            pass
    between = time.perf_counter()
    for name, one in predictors.items():
        judge(one, many, name)
    return between - began, time.perf_counter() - between


def main() -> None:
    """Print each turn, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    if args.folder is None:
        print(json.dumps({"skipped": "no FOLDER of photographs is given"}))
        return
    corruptions.load()
    turns: list[tuple[float, float]] = []
    with TemporaryDirectory() as root, ExitStack() as stack:
        engines, split = built(args, Path(root))
        opened: dict[str, Any] = {name: stack.enter_context(open_session(one, args.threads)) for name, one in engines.items()}
        predictors = {name: SessionPredictor(one, engines[name].facts.contract) for name, one in opened.items()}
        for _ in range(args.turns):
            turns.append(timed(predictors, split))
            print("sweep {:.1f} s, validating ten times {:.1f} s".format(*turns[-1]), flush=True)
    ratio = statistics.median(swept / validated for swept, validated in turns)
    print(json.dumps({"images": len(split.images), "engines": len(opened), "seconds": turns, "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
