"""How much mAP a short list of candidates costs.

Each detector is trained on images of blood cells for a few minutes, then evaluated twice on split val: with the default number of
candidates and proposals before NMS, and with torchvision's. Nothing else differs.
Usage: python benchmarks/candidates.py [--epochs N] [--threads N] [--only NAME ...]
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from detectors import CASES

from pipeline.config import load
from stages.artifacts import Dataset
from stages.config import DetectorConfig, ExportConfig, TrainConfig
from stages.detectors import Detector
from stages.measurement.torch_accuracy import evaluate
from stages.prepare import prepare
from stages.training.checkpoint import build_detector
from stages.training.loop import Task, Trainer

EXAMPLE = Path(__file__).parents[1] / "examples" / "bccd.yaml"
NAMES = ("fcos", "retinanet v2", "faster_rcnn mobilenet_v3")


def fitted(name: str, dataset: Dataset, epochs: int, folder: Path) -> Detector:
    """The detector after this many epochs."""
    detector = build_detector(DetectorConfig.model_validate(CASES[name][0]), len(dataset.facts.contract.classes), 0)
    augment = [{"name": "flip"}, {"name": "scale"}]
    options = {"epochs": epochs, "batch_size": 4, "learning_rate": 3e-4, "warmup_steps": 50, "ema": 0.99, "augment": augment}
    config = TrainConfig.model_validate(options)
    return Trainer(Task(detector), dataset, config, seed=0, device="cpu", folder=folder, label=name).run()


def main() -> None:
    """Print each detector's mAP with both numbers of candidates, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", choices=CASES, default=NAMES)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "data").mkdir()
        dataset = prepare(root / "data", load(EXAMPLE).data)
        size = dataset.facts.contract.preprocessing
        print(f"BCCD, split val, {size.height} x {size.width} px, {args.epochs} epochs, torch {torch.__version__}")
        for name in args.only:
            (root / name).mkdir()
            detector = fitted(name, dataset, args.epochs, root / name)
            short, own = ExportConfig(), CASES[name][2]
            long = short.model_copy(update={"candidates": own.candidates, "proposals": own.proposals})
            row = {}
            for side, options in (("default", short), ("torchvision's", long)):
                scratch = root / name / side
                scratch.mkdir()
                row[side] = round(evaluate(scratch, detector, dataset, "val", options).map, 4)
            rows[name] = {**row, "cost_points": round((row["torchvision's"] - row["default"]) * 100, 2)}
            print(f"{name:<26}" + "".join(f"  {key} {value}" for key, value in rows[name].items()), flush=True)
    print(json.dumps({"most_points": max(row["cost_points"] for row in rows.values()), "detectors": rows}))


if __name__ == "__main__":
    main()
