"""Milliseconds per image for every torchvision detector at one size, from the network's input to boxes.

Compares our fixed-shape graph in ONNX Runtime with torchvision's eager model and its legacy ONNX export, with the same weights.

"ours" keeps the default number of candidates and proposals, "ours_full" (only with --full) torchvision's. Repeats are interleaved;
medians are compared. Exporting takes longer than measuring: --engines keeps the graphs in a folder and reuses them, --export writes
them and measures nothing.
Usage: python benchmarks/detectors.py [--repeats N] [--threads N] [--size PX] [--only NAME ...] [--full] [--engines DIR [--export]]
"""

import argparse
import copy
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import detection

from deploy import plugins
from stages.config import DetectorConfig, ExportConfig
from stages.detectors import Detector, GraphOptions
from stages.exports.to_onnx import write_onnx
from stages.measurement.torch_accuracy import graph_options
from stages.training.checkpoint import build_detector

NUM_CLASSES = 80
Side = Callable[[NDArray[np.float32]], object]
CASES: dict[str, tuple[dict[str, Any], Callable[..., nn.Module], GraphOptions]] = {
    "fcos": ({"name": "fcos"}, detection.fcos_resnet50_fpn, GraphOptions(100, 1000, 0.2, 0.6, 300)),
    "retinanet v1": ({"name": "retinanet", "version": 1}, detection.retinanet_resnet50_fpn, GraphOptions(300, 1000, 0.05, 0.5, 300)),
    "retinanet v2": ({"name": "retinanet", "version": 2}, detection.retinanet_resnet50_fpn_v2, GraphOptions(300, 1000, 0.05, 0.5, 300)),
    "ssd": ({"name": "ssd"}, detection.ssd300_vgg16, GraphOptions(200, 400, 0.01, 0.45, 300)),
    "ssdlite": ({"name": "ssdlite"}, detection.ssdlite320_mobilenet_v3_large, GraphOptions(300, 300, 0.001, 0.55, 300)),
    "faster_rcnn v1": ({"name": "faster_rcnn", "version": 1}, detection.fasterrcnn_resnet50_fpn, GraphOptions(100, 1000, 0.05, 0.5, 1000)),
    "faster_rcnn v2": (
        {"name": "faster_rcnn", "version": 2},
        detection.fasterrcnn_resnet50_fpn_v2,
        GraphOptions(100, 1000, 0.05, 0.5, 1000),
    ),
    "faster_rcnn mobilenet_v3": (
        {"name": "faster_rcnn", "backbone": "mobilenet_v3_large"},
        detection.fasterrcnn_mobilenet_v3_large_fpn,
        GraphOptions(100, 1000, 0.05, 0.5, 1000),
    ),
    "mask_rcnn v1": ({"name": "mask_rcnn", "version": 1}, detection.maskrcnn_resnet50_fpn, GraphOptions(100, 1000, 0.05, 0.5, 1000)),
    "mask_rcnn v2": ({"name": "mask_rcnn", "version": 2}, detection.maskrcnn_resnet50_fpn_v2, GraphOptions(100, 1000, 0.05, 0.5, 1000)),
}


def background(make: Callable[..., nn.Module]) -> int:
    """1 if torchvision's model counts its labels from 1, with 0 as the background."""
    return 1 if make.__name__.startswith(("ssd", "fasterrcnn", "maskrcnn")) else 0


def torchvisions(detector: Detector, make: Callable[..., nn.Module], size: int, num_classes: int = NUM_CLASSES) -> nn.Module:
    """torchvision's model with the detector's weights; it takes the network's input without resizing or normalizing it."""
    model = make(weights=None, weights_backbone=None, num_classes=num_classes + background(make)).eval()
    state = copy.deepcopy({name.removeprefix("model."): tensor for name, tensor in detector.state_dict().items()})
    model.load_state_dict(state)
    transform: Any = model.transform
    transform.min_size, transform.max_size, transform.fixed_size = (size,), size, (size, size)
    transform.image_mean, transform.image_std = [0.0] * 3, [1.0] * 3
    return model


def engine(detector: Detector, options: GraphOptions, size: int, file: Path, threads: int) -> Side:
    """Our graph as an engine; an existing file is reused."""
    if not file.exists():
        write_onnx(detector.graph(options).eval(), (size, size), file.with_suffix(".partial"))
        file.with_suffix(".partial").replace(file)
    session = plugins.load("deploy.runtimes", "ort").open(file, threads=threads)
    return session.infer


def eager(model: Any) -> Side:
    """torchvision's model in eager mode."""

    def run(images: NDArray[np.float32]) -> object:
        with torch.no_grad():
            return model([torch.from_numpy(images[0])])

    return run


def legacy(model: nn.Module, size: int, file: Path, threads: int) -> Side:
    """torchvision's model through torch's legacy exporter, as in its documentation; an existing file is reused."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    if not file.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: list[Tensor] = [torch.rand(3, size, size)]
            torch.onnx.export(model, (image,), str(file.with_suffix(".partial")), dynamo=False, opset_version=17, input_names=["image"])
        file.with_suffix(".partial").replace(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images[0]})


def medians(sides: dict[str, Side], images: NDArray[np.float32], repeats: int) -> dict[str, float]:
    """Median milliseconds per side over interleaved repeats, after three warm-up passes."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 3):
        for name, side in sides.items():
            start = time.perf_counter()
            side(images)
            if repeat >= 3:
                taken[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(values) for name, values in taken.items()}


def build(name: str, size: int, threads: int, folder: Path, wanted: Sequence[str]) -> dict[str, Side]:
    """The wanted sides of one detector, with the same weights at every call; their files are kept in the folder."""
    choice, make, own_settings = CASES[name]
    detector = build_detector(DetectorConfig.model_validate(choice), NUM_CLASSES).eval()
    model = torchvisions(detector, make, size)
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], Side]] = {
        "ours": lambda: engine(detector, graph_options(ExportConfig()), size, folder / "ours.onnx", threads),
        "ours_full": lambda: engine(detector, own_settings, size, folder / "full.onnx", threads),
        "eager": lambda: eager(model),
        "legacy": lambda: legacy(model, size, folder / "legacy.onnx", threads),
    }
    return {side: makers[side]() for side in wanted}


def main() -> None:
    """Print a table and one line of JSON; ratios above 1 mean that ours is faster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--full", action="store_true", help="include ours_full, whose graphs take minutes to export")
    parser.add_argument("--engines", type=Path, help="folder of kept graphs; choose a different one after changing the code")
    parser.add_argument("--export", action="store_true", help="write the graphs and measure nothing")
    args = parser.parse_args()
    if args.export and args.engines is None:
        parser.error("--export needs --engines, the folder to write to")
    torch.set_num_threads(args.threads)
    print(f"{args.repeats} interleaved repeats, {args.threads} thread(s), {args.size} px, onnxruntime {onnxruntime.__version__}")
    columns = ("ours", *(("ours_full",) if args.full else ()), "eager", "legacy")
    print(f"{'detector':<26}" + "".join(f"{column + ' ms':>14}" for column in columns) + f"{'vs eager':>10}{'vs legacy':>10}")
    rows = {}
    images = np.random.default_rng(0).normal(size=(1, 3, args.size, args.size)).astype(np.float32)
    for name in args.only:
        with tempfile.TemporaryDirectory() as scratch:
            sides = build(name, args.size, args.threads, (args.engines or Path(scratch)) / f"{name.replace(' ', '-')}-{args.size}", columns)
            if args.export:
                continue
            row = medians(sides, images, args.repeats)
        rows[name] = {"vs_eager": row["eager"] / row["ours"], "vs_legacy": row["legacy"] / row["ours"]}
        if args.full:
            rows[name]["full_vs_eager"] = row["eager"] / row["ours_full"]
        values = "".join(f"{row[column]:>14.1f}" for column in columns)
        print(f"{name:<26}{values}{rows[name]['vs_eager']:>10.2f}{rows[name]['vs_legacy']:>10.2f}", flush=True)
    if args.export:
        return
    middle = {key: round(statistics.median(row[key] for row in rows.values()), 3) for key in next(iter(rows.values()))}
    slowest = round(min(row["vs_eager"] for row in rows.values()), 3)
    each = {name: {key: round(value, 3) for key, value in row.items()} for name, row in rows.items()}
    print(json.dumps({**middle, "min_vs_eager": slowest, "detectors": each}))


if __name__ == "__main__":
    main()
