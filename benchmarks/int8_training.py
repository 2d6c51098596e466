"""Latency of int8 engines whose network was trained for int8, in times of post-training int8's.

Two students of fresh weights: pipeline.yaml's, and the same detector on MobileNetV3. Their weights decide no latency, so instead of a
training every weight moves by a hundredth of its layer's spread, and is rounded with scales of its own. Engines of `ort` and `openvino`
as `run` builds them are measured together with the ones after the distillation, on one thread, as stage `measure` does. The last line is
JSON: each ratio with its 95% interval.
Usage: python benchmarks/int8_training.py [--seconds 60]
"""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from onnx import ModelProto

from deploy import plugins
from deploy.contract import ModelContract, Ratio
from deploy.latency.measure import LatencyProtocol, measure_together
from deploy.prediction.image_files import load_image
from deploy.prediction.predictor import SessionPredictor
from pipeline.config import PipelineConfig, load
from pipeline.store.store import Store
from stages.artifacts import Dataset
from stages.config import TargetConfig
from stages.detectors import Detector
from stages.int8.forms import Int8Forms
from stages.measurement.calibration_images import CalibrationImages
from stages.measurement.splits import labeled_split
from stages.prepare import prepare
from stages.training.checkpoint import build_detector

ROOT = Path(__file__).parents[1]
MOBILE = "{name: fcos, backbone: mobilenet_v3_small, fpn_channels: 64, strides: [8, 16, 32], head_convs: 1, range_scale: 0.5}"
STUDENTS = {"default": (), "mobile": (f"student.detector={MOBILE}",)}
RUNTIMES = ("ort", "openvino")
IMAGES = 32


def moved(detector: Detector) -> Detector:
    """The detector after a training that changed little."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in detector.parameters():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs()
            parameter.add_(0.01 * spread * torch.randn(parameter.shape, generator=generator))
    return detector


def typed(runtime: str, config: PipelineConfig, dataset: Dataset, folder: Path) -> tuple[dict[str, ModelProto], Int8Forms]:
    """The int8 graphs before and after."""
    target = TargetConfig.model_validate({"name": "int8", "runtime": runtime, "precision": "int8", "int8": {"finetune": True}})
    how = target.finetuning(config.student.train)
    assert how is not None
    contract = dataset.facts.contract
    detector = build_detector(config.student.detector, len(contract.classes), 0, pretrained=False).eval()
    forms = Int8Forms(detector, how, config.export, contract, folder)
    forms.calibrate(CalibrationImages(dataset, how, contract.preprocessing))
    return {"post-training": forms.post_training, "trained": forms.trained(moved(detector))}, forms


def opened(runtime: str, graphs: dict[str, ModelProto], forms: Int8Forms, folder: Path, stack: ExitStack) -> dict[str, SessionPredictor]:
    """Engines of the graphs."""
    own: Any = plugins.load("deploy.runtimes", runtime)
    found = {}
    for name, graph in graphs.items():
        out = folder / f"{runtime}-{name}"
        out.mkdir()
        (out / "typed.onnx").write_bytes(graph.SerializeToString())
        built = own.compile(out / "typed.onnx", forms.heads, out)
        found[name] = SessionPredictor(stack.enter_context(own.open(built.file, threads=1)), forms.contract)
    return found


def measured(student: str, seconds: float) -> dict[str, Ratio]:
    """The ratio of each runtime."""
    config = load(ROOT / "pipeline.yaml", [*STUDENTS[student], "data.train_images=200", "data.val_images=100"])
    dataset = Store(ROOT / "runs", "benchmark-int8-training").run(prepare, config.data)
    found = {}
    for runtime in RUNTIMES:
        with TemporaryDirectory() as scratch, ExitStack() as stack:
            (Path(scratch) / "forms").mkdir()
            engines = opened(runtime, *typed(runtime, config, dataset, Path(scratch) / "forms"), Path(scratch), stack)
            pixels = images(dataset, config, next(iter(engines.values())).contract)
            together = measure_together(engines, pixels, LatencyProtocol(budget_seconds=seconds), seed=0)
            found[f"{student}, {runtime}"] = together.ratios["trained"]["post-training"]
    return found


def images(dataset: Dataset, config: PipelineConfig, contract: ModelContract) -> list[Any]:
    """Photographs of the split that is judged."""
    files = labeled_split(dataset, config.validation.split).images[:IMAGES]
    return [load_image(file, contract.preprocessing) for file in files]


def main() -> None:
    """Print each ratio, and all of them as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    found: dict[str, Ratio] = {}
    for student in STUDENTS:
        found |= measured(student, args.seconds)
    for name, one in found.items():
        print(f"{name:<18} {one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})")
    print(json.dumps({name: one.model_dump() for name, one in found.items()}))


if __name__ == "__main__":
    main()
