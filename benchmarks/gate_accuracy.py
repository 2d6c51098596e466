"""Does the accuracy gate detect real losses? `max_drop: 0.01` versus a reference, on 1,000 generated images.

Twenty damaged copies of the default student must fail: each has noise in one layer's weights that costs 2 to 3 points of mAP.
Twenty re-exports of the same weights (operator sets, fixed and dynamic batch, the runtime's optimizations) must pass. The student
comes from the run of CONFIG, or is trained first. Rows are kept in runs/gate-accuracy.jsonl; --fresh deletes them.
Usage: python benchmarks/gate_accuracy.py [CONFIG] [--fresh]
"""

import argparse
import copy
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import torch
from torch import nn

from deploy.accuracy.judge import LabeledSplit, judge
from deploy.comparison.metrics import Figures
from deploy.comparison.side import Side
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Session, ort
from pipeline.config import PipelineConfig, load
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Dataset
from stages.config import GateConfig
from stages.distill import distill
from stages.exports.to_onnx import write_onnx
from stages.measurement.splits import labeled_split, some
from stages.measurement.torch_accuracy import TorchSession, graph_options
from stages.measurement.verdicts import Judge
from stages.prepare import prepare
from stages.train import train_teacher
from stages.training.checkpoint import load_detector

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "runs" / "gate-accuracy.jsonl"
GATE = GateConfig.model_validate({"metric": "map", "max_drop": 0.01})
NUM_IMAGES, NUM_FEW, NUM_EACH = 1000, 200, 20
LEAST, MOST = 0.02, 0.03
STRONGEST, TRIES = 16.0, 12
EXPORTS = list(product(("all", "basic", "none"), (True, False), (18, 19, 20, 21)))[:NUM_EACH]
Found = Sequence[Mapping[str, Any]]


def trained(config: PipelineConfig) -> Checkpoint:
    """The student of the configuration's run; trained if it does not exist."""
    store, decisions, on = Store(Path("runs"), config.name), config.export.decisions, config.validation.split
    dataset = store.run(prepare, config.data)
    teacher = store.run(train_teacher, config.teacher, config.seed, config.device, on, dataset, decisions)
    return store.run(distill, config.distill, config.student, config.seed, config.device, on, dataset, teacher, decisions)


class Bench:
    """The student, and the images on which it is evaluated."""

    def __init__(self, config: PipelineConfig, student: Checkpoint, dataset: Dataset) -> None:
        self.config, self.student, self.dataset = config, student, dataset
        self.split = labeled_split(dataset, config.validation.split)
        self.few = some(self.split, NUM_FEW)
        self.contract = student.facts.contract
        self.size = self.contract.preprocessing.height, self.contract.preprocessing.width

    def found(self, session: Session, label: str, images: LabeledSplit) -> tuple[float, Found]:
        """A session's mAP and detections on the images."""
        judged = judge(SessionPredictor(session, self.contract), images, label)
        return judged.accuracy.map or 0.0, judged.detections

    def in_torch(self, detector: Any, label: str, images: LabeledSplit) -> tuple[float, Found]:
        """A torch detector's mAP and detections on the images."""
        return self.found(TorchSession(detector.graph(graph_options(self.config.export.decisions))), label, images)

    def verdict(self, own: Found, reference: Found) -> dict[str, Any]:
        """The gate's verdict, with the drop and its confidence interval."""
        sides = [
            Side(name, Figures(), self.contract, _closed, lambda found=found: found) for name, found in (("own", own), ("kept", reference))
        ]
        one = Judge(sides[0], {"reference": sides[1]}, self.dataset, self.config.validation).verdict(GATE)
        assert one.effect is not None, one.why
        return {"verdict": one.verdict, "drop": one.effect.change, "low": one.effect.low, "high": one.effect.high}


def _closed() -> NoReturn:
    raise AssertionError("accuracy needs only detections")


def damaged(detector: nn.Module, layer: str, seed: int, strength: float) -> nn.Module:
    """A copy with noise added to one layer's weights; `strength` is relative to the weights' standard deviation."""
    made = copy.deepcopy(detector)
    weight = made.get_submodule(layer).weight
    assert isinstance(weight, nn.Parameter)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight += torch.randn(weight.shape, generator=generator) * weight.std() * strength
    return made


def damage(bench: Bench, whole: float, reference: Found, number: int) -> dict[str, Any]:
    """The gate's verdict on noise that costs 2 to 3 points, in the layer of this number or the next one that matters."""
    detector = load_detector(bench.student).eval()
    layers = [name for name, module in detector.named_modules() if isinstance(module, nn.Conv2d)]
    few = bench.in_torch(detector, "reference on few", bench.few)[0]
    for layer in layers[number * len(layers) // NUM_EACH :]:
        if (made := strength_of(bench, detector, layer, number, whole, few)) is not None:
            strength, found = made
            return {"kind": "damage", "number": number, "layer": layer, "strength": strength, **bench.verdict(found, reference)}
    raise SystemExit(f"no layer from {layers[number * len(layers) // NUM_EACH]} on costs {LEAST} to {MOST} mAP when damaged")


def strength_of(bench: Bench, detector: Any, layer: str, seed: int, whole: float, few: float) -> tuple[float, Found] | None:
    """The noise's strength, found by bisection, and the damaged network's detections; None if the layer hardly matters."""
    found: dict[float, Found] = {}

    def cost(strength: float, images: LabeledSplit) -> float:
        after, found[strength] = bench.in_torch(damaged(detector, layer, seed, strength), f"{layer} {strength:.3f}", images)
        return (whole if images is bench.split else few) - after

    low, high = 0.0, 0.5
    while cost(high, bench.few) < MOST:
        low, high = high, 2 * high
        if high > STRONGEST:
            return None
    for _ in range(5):  # on few images, for a first estimate
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle, bench.few) < (LEAST + MOST) / 2 else (low, middle)
    low, high, strength = 0.7 * low, 1.4 * high, (low + high) / 2
    for _ in range(TRIES):
        if LEAST <= (lost := cost(strength, bench.split)) <= MOST:
            return strength, found[strength]
        low, high = (strength, high) if lost < LEAST else (low, strength)
        strength = (low + high) / 2
    return None


def again(bench: Bench, reference: Found, number: int) -> dict[str, Any]:
    """The gate's verdict on the same weights exported again with different options."""
    optimization, dynamic, opset = EXPORTS[number]
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.onnx"
        graph = load_detector(bench.student).eval().graph(graph_options(bench.config.export.decisions))
        write_onnx(graph, bench.size, file, opset=opset, dynamic_batch=dynamic)
        with ort.open(file, threads=1 + number % 2, options={"optimization": optimization}) as session:
            found = bench.found(session, f"export {number}", bench.split)[1]
    how = {"opset": opset, "dynamic_batch": dynamic, "optimization": optimization}
    return {"kind": "export", "number": number, **how, **bench.verdict(found, reference)}


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="pipeline.yaml")
    parser.add_argument("--fresh", action="store_true", help="delete earlier rows")
    args = parser.parse_args()
    ROWS.parent.mkdir(exist_ok=True)
    if args.fresh:
        ROWS.unlink(missing_ok=True)
    config = load(Path(args.config))
    student = trained(config)
    many = load(Path(args.config), [f"data.val_images={NUM_IMAGES}"])
    bench = Bench(config, student, Store(Path("runs"), f"{config.name}-many").run(prepare, many.data))
    whole, reference = bench.in_torch(load_detector(student).eval(), "reference", bench.split)
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []
    done = {(row["kind"], row["number"]) for row in rows}
    with ROWS.open("a", encoding="utf-8") as file:
        for kind, number in product(("export", "damage"), range(NUM_EACH)):
            if (kind, number) in done:
                continue
            row = again(bench, reference, number) if kind == "export" else damage(bench, whole, reference, number)
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    for row in rows:
        what = row.get("layer") or f"opset {row['opset']}, optimization {row['optimization']}"
        print(f"{row['kind']:<8}{what:<44}{row['drop']:>+9.4f} ({row['low']:+.4f} to {row['high']:+.4f})  {row['verdict']}")
    counts = Counter((row["kind"], row["verdict"]) for row in rows)
    print(json.dumps({"map": round(whole, 4), "damages_failed": counts["damage", "fail"], "exports_passed": counts["export", "pass"]}))


if __name__ == "__main__":
    main()
