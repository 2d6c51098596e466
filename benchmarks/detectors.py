"""Milliseconds per image for every detector that torchvision or mmdet has too, at one size, from the network's input to boxes.

Compares our fixed-shape graph in ONNX Runtime and, if it is installed, in OpenVINO with the same weights in the other's eager mode, and
with torchvision's legacy ONNX export.
mmdet runs in a process of its own, in the interpreter that --mmdet names (see mmdet_eager.py, whose MODULE is --mmdet-first); without it,
the detectors that torchvision lacks are left out.

"ours" and "openvino" keep the default number of candidates and proposals, "ours_full" (only with --full) the other's. Repeats are
interleaved; medians are compared. --results keeps each detector's row in a file, one line of JSON each, and a detector that has its row
there is not measured again. Exporting takes longer than measuring: --engines keeps the graphs in a folder and reuses them, --export
writes them and measures nothing.
Usage: python benchmarks/detectors.py [--repeats N] [--threads N] [--size PX] [--only NAME ...] [--full] [--engines DIR [--export]]
    [--results FILE] [--mmdet PYTHON [--mmdet-first MODULE]]
"""

import argparse
import copy
import json
import logging
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
_TWO_STAGE = GraphOptions(100, 1000, 0.05, 0.5, 1000)
MMDETS: dict[str, tuple[dict[str, Any], str, GraphOptions]] = {
    "cascade_rcnn": ({"name": "cascade_rcnn"}, "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", _TWO_STAGE),
    "cascade_mask_rcnn": ({"name": "cascade_mask_rcnn"}, "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py", _TWO_STAGE),
    "dynamic_rcnn": ({"name": "dynamic_rcnn"}, "dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py", _TWO_STAGE),
    "grid_rcnn": ({"name": "grid_rcnn"}, "grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco.py", GraphOptions(100, 1000, 0.03, 0.3, 1000)),
    "fsaf": ({"name": "fsaf"}, "fsaf/fsaf_r50_fpn_1x_coco.py", GraphOptions(100, 1000, 0.05, 0.5, 300)),
    "reppoints": (
        {"name": "reppoints"},
        "reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py",
        GraphOptions(100, 1000, 0.05, 0.5, 300),
    ),
    "atss": ({"name": "atss"}, "atss/atss_r50_fpn_1x_coco.py", GraphOptions(100, 1000, 0.05, 0.6, 300)),
    "gfl": ({"name": "gfl"}, "gfl/gfl_r50_fpn_1x_coco.py", GraphOptions(100, 1000, 0.05, 0.6, 300)),
    "yolox": ({"name": "yolox"}, "yolox/yolox_s_8xb8-300e_coco.py", GraphOptions(300, 2100, 0.01, 0.65, 300)),
}
SETTINGS = ("repeats", "threads", "size", "full")
"""What a kept row must have been measured with."""


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


def graph(detector: Detector, options: GraphOptions, size: int, file: Path) -> Path:
    """Our graph; an existing file is reused."""
    if not file.exists():
        write_onnx(detector.graph(options).eval(), (size, size), file.with_suffix(".partial"))
        file.with_suffix(".partial").replace(file)
    return file


def engine(file: Path, threads: int, runtime: str = "ort") -> Side:
    """A graph as an engine."""
    infer: Side = plugins.load("deploy.runtimes", runtime).open(file, threads=threads).infer
    return infer


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


@contextmanager
def sides(name: str, args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Side]]:
    """What is compared for one detector, with the same weights at every call; files are kept in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in CASES:
        choice, make, own_settings = CASES[name]
        detector = build_detector(DetectorConfig.model_validate(choice), NUM_CLASSES).eval()
        model = torchvisions(detector, make, args.size)
        yield ours(detector, own_settings, folder, args) | {
            "eager": eager(model),
            "legacy": legacy(model, args.size, folder / "legacy.onnx", args.threads),
        }
        return
    choice, config, own_settings = MMDETS[name]
    weights = folder / "weights.pth"
    with mmdet_eager(config, weights, args) as theirs:
        detector = build_detector(DetectorConfig.model_validate({**choice, "weights": str(weights)}), NUM_CLASSES).eval()
        yield ours(detector, own_settings, folder, args) | {"eager": theirs}


def ours(detector: Detector, own_settings: GraphOptions, folder: Path, args: argparse.Namespace) -> dict[str, Side]:
    """Our engines of a detector."""
    file = graph(detector, graph_options(ExportConfig()), args.size, folder / "ours.onnx")
    found = {"ours": engine(file, args.threads)}
    if plugins.load("deploy.runtimes", "openvino").why_not() is None:
        found["openvino"] = engine(file, args.threads, "openvino")
    if args.full:
        found["ours_full"] = engine(graph(detector, own_settings, args.size, folder / "full.onnx"), args.threads)
    return found


@contextmanager
def mmdet_eager(config: str, weights: Path, args: argparse.Namespace) -> Iterator[Side]:
    """mmdet's network in a process of its own, which has written its weights."""
    first = [args.mmdet_first] if args.mmdet_first else []
    command = [args.mmdet, str(Path(__file__).with_name("mmdet_eager.py")), config, str(args.size), str(args.threads), str(weights), *first]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own script
        given, answers = process.stdin, process.stdout
        assert given is not None
        assert answers is not None

        def answered(_: object = None) -> str:
            if not (line := answers.readline()):
                raise RuntimeError(f"{args.mmdet} ended while it ran {config}; its own message is above")
            return line

        def run(images: NDArray[np.float32]) -> object:
            given.write("\n")
            given.flush()
            return answered()

        answered()
        yield run


def measured(name: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """A detector's row; None if its graphs were only to be written."""
    images = np.random.default_rng(0).normal(size=(1, 3, args.size, args.size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.engines or Path(scratch)) / f"{name.replace(' ', '-')}-{args.size}"
        with sides(name, args, folder) as found:
            if args.export:
                return None
            times = medians(found, images, args.repeats)
    row = {"detector": name, "rival": "torchvision" if name in CASES else "mmdet", **{key: getattr(args, key) for key in SETTINGS}}
    row |= {f"{side}_ms": round(value, 2) for side, value in times.items()}
    row |= {f"vs_{side}": round(times[side] / times["ours"], 3) for side in ("eager", "legacy") if side in times}
    others = {"full_vs_eager": "ours_full", "openvino_vs_eager": "openvino"}
    return row | {name: round(times["eager"] / times[side], 3) for name, side in others.items() if side in times}


def kept(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The rows of earlier calls with the same settings."""
    lines = args.results.read_text(encoding="utf-8").splitlines() if args.results and args.results.exists() else []
    rows = [json.loads(line) for line in lines]
    return {row["detector"]: row for row in rows if all(row[key] == getattr(args, key) for key in SETTINGS)}


def shown(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """A line of the table."""
    return f"{row['detector']:<26}{row['rival']:<12}" + "".join(f"{row.get(column, '-'):>18}" for column in columns)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the detectors, the smallest ratio to eager mode, also of each detector's faster runtime, and each detector's ratios."""
    keys = ("vs_eager", "vs_legacy", "full_vs_eager", "openvino_vs_eager")
    found = {key: [row[key] for row in rows if key in row] for key in keys}
    middle = {key: round(statistics.median(values), 3) for key, values in found.items() if values}
    each = {row["detector"]: {key: row[key] for key in ("rival", *keys) if key in row} for row in rows}
    faster = [max(row["vs_eager"], row.get("openvino_vs_eager", 0.0)) for row in rows]
    return {**middle, "min_vs_eager": min(found["vs_eager"]), "min_faster_vs_eager": min(faster), "detectors": each}


def arguments() -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--only", nargs="*", choices=(*CASES, *MMDETS))
    parser.add_argument("--full", action="store_true", help="include ours_full, whose graphs take minutes to export")
    parser.add_argument("--engines", type=Path, help="folder of kept graphs; choose a different one after changing the code")
    parser.add_argument("--export", action="store_true", help="write the graphs and measure nothing")
    parser.add_argument("--results", type=Path, help="file of kept rows; choose a different one after changing the code")
    parser.add_argument("--mmdet", metavar="PYTHON", help="interpreter of an environment with mmdet")
    parser.add_argument("--mmdet-first", metavar="MODULE", help="module that is imported there before mmdet")
    args = parser.parse_args()
    args.only = args.only or [*CASES, *(MMDETS if args.mmdet else ())]
    if args.export and args.engines is None:
        parser.error("--export needs --engines, the folder to write to")
    if not args.mmdet and (missing := [name for name in args.only if name in MMDETS]):
        parser.error(f"{', '.join(missing)}: needs --mmdet, the interpreter of an environment with mmdet")
    return args


def main() -> None:
    """Print a table and one line of JSON; ratios above 1 mean that ours is faster."""
    args = arguments()
    torch.set_num_threads(args.threads)
    print(f"{args.repeats} interleaved repeats, {args.threads} thread(s), {args.size} px, onnxruntime {onnxruntime.__version__}")
    columns = ["ours_ms", "openvino_ms", *(["ours_full_ms"] if args.full else []), "eager_ms", "legacy_ms"]
    columns += ["vs_eager", "openvino_vs_eager", "vs_legacy"]
    print(f"{'detector':<26}{'rival':<12}" + "".join(f"{column:>18}" for column in columns))
    old, rows = kept(args), []
    for name in args.only:
        row = old.get(name) or measured(name, args)
        if row is None:
            continue
        if name not in old and args.results:
            with args.results.open("a", encoding="utf-8") as file:
                print(json.dumps(row), file=file)
        rows.append(row)
        print(shown(row, columns), flush=True)
    if rows:
        print(json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
