"""Milliseconds per image for examples/edge.yaml's student: int8 against fp32, and our fastest engine against four alternatives.

The student is trained without a teacher, first on small images, then at 320 px (kept in runs/ and not repeated), and deployed at 320
and 640 px. int8's limit is judged on split val, int8's loss is measured on split test. The alternatives have the student's weights
and the same number of candidates: torchvision's RetinaNet in eager torch and under torch.compile, and its export by torch's legacy
exporter in ONNX Runtime and in OpenVINO. All start from a decoded photograph and end with boxes in its pixels, with the same number
of threads. Repeats are interleaved; medians are compared. Decoding the JPEG is reported separately.
Usage: python benchmarks/inference.py [--repeats N] [--threads N]
"""

import argparse
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torchvision.models.detection.retinanet import RetinaNet

from deploy import plugins
from deploy.prediction import image_files
from deploy.prediction.predictor import SessionPredictor, Timings
from pipeline.config import PipelineConfig, load
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Engine, OnnxModel, Report
from stages.config import ExportConfig, TargetConfig
from stages.export import export
from stages.measurement.splits import labeled_split
from stages.optimize import judging, optimize
from stages.prepare import prepare
from stages.train import train_baseline
from stages.training.checkpoint import load_detector
from stages.validate import validate

ROOT = Path(__file__).parents[1]
TRAINED_PX, SIZES = 160, (320, 640)
NUM_IMAGES = 40
NUM_TEST_IMAGES = 120
Image = NDArray[np.uint8]
Side = Callable[[Image], object]


@dataclass(frozen=True)
class Deployed:
    """The student at one size: its graph, some photographs, and each runtime and precision's engine and report."""

    size: int
    student: Checkpoint
    model: OnnxModel
    files: Sequence[Path]
    engines: Mapping[tuple[str, str], tuple[Engine, Report]]


def config_at(size: int, images: int, **student: object) -> PipelineConfig:
    """examples/edge.yaml with images of this size and the given options of section student."""
    settings = [f"data.image_size={size}", f"data.preprocessing.height={size}", f"data.preprocessing.width={size}"]
    settings += [f"data.{name}_images={NUM_IMAGES}" for name in ("val", "shifted")]
    settings += [f"data.train_images={images}", f"data.test_images={NUM_TEST_IMAGES if size > TRAINED_PX else NUM_IMAGES}"]
    settings += [f"data.max_digits={8 if size > TRAINED_PX else 5}", "validation.latency.min_seconds=0", "validation.latency.min_passes=5"]
    settings += [f"student.{key.replace('__', '.')}={json.dumps(value)}" for key, value in student.items()]
    return load(ROOT / "examples" / "edge.yaml", settings)


def trained(config: PipelineConfig, store: Store) -> tuple[Any, Checkpoint]:
    """The data, and the baseline trained on it."""
    dataset = store.run(prepare, config.data)
    student = store.run(train_baseline, config.student, config.seed, "cpu", config.validation.split, dataset, config.export.decisions)
    return dataset, student


def deployed(size: int, weights: Path, store: Store) -> Deployed:
    """The student's engines at one size; int8 stays within its limit."""
    config = config_at(size, 128, weights=str(weights), train__epochs=0)
    dataset, student = trained(config, store)
    model = store.run(export, config.export, student)
    engines = {}
    for target in config.targets:
        if target.runtime in ("ort", "openvino"):
            view = store.at(f"{target.name}-{size}")
            engine = view.run(optimize, target, model, dataset, *judging(target, config.validation))
            unseen = config.validation.model_copy(update={"split": "test"})
            engines[target.runtime, target.precision] = engine, view.run(validate, unseen, engine, dataset)
    return Deployed(size, student, model, labeled_split(dataset, config.validation.split).images, engines)


def predictor(engine: Engine, threads: int) -> SessionPredictor:
    """A predictor that runs the engine as the server does."""
    facts = engine.facts
    assert facts.file is not None
    session = plugins.load("deploy.runtimes", facts.runtime).open(engine.file(facts.file), threads=threads, options=facts.options)
    return SessionPredictor(session, facts.contract)


def alternatives(at: Deployed, threads: int, folder: Path) -> dict[str, Side]:
    """torchvision's model with the student's weights, run in four ways."""
    model: Any = load_detector(at.student).model  # type: ignore[attr-defined]
    assert isinstance(model, RetinaNet)
    model.eval()
    model.transform.min_size, model.transform.max_size = (at.size,), at.size
    decisions = ExportConfig()
    model.topk_candidates, model.detections_per_img = decisions.candidates, decisions.max_detections
    model.score_thresh, model.nms_thresh = decisions.score_threshold, decisions.iou_threshold
    compiled = torch.compile(model)
    file = folder / f"plain-{at.size}.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, ([torch.rand(3, at.size, at.size)],), str(file), dynamo=False, opset_version=17, input_names=["image"])
    return {
        "torch_eager": lambda image: _torch(model, image),
        "torch_compile": lambda image: _torch(compiled, image),
        "onnxruntime": _onnxruntime(file, threads),
        "openvino": _openvino(file, threads),
    }


def _input(image: Image) -> NDArray[np.float32]:
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / 255


def _torch(model: Any, image: Image) -> object:
    with torch.no_grad():
        return model([torch.from_numpy(_input(image))])


def _onnxruntime(file: Path, threads: int) -> Side:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: _input(image)})


def _openvino(file: Path, threads: int) -> Side:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(file), "CPU", settings).create_infer_request()
    return lambda image: request.infer([_input(image)])


def medians(sides: Mapping[str, Side], images: Sequence[Image], repeats: int) -> dict[str, float]:
    """Median milliseconds per side over interleaved repeats, after two warm-up passes."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 2):
        for name, side in sides.items():
            start = time.perf_counter()
            side(images[repeat % len(images)])
            if repeat >= 2:
                taken[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(values) for name, values in taken.items()}


def precisions(at: Deployed, images: Sequence[Image], threads: int, repeats: int) -> dict[str, dict[str, float]]:
    """int8 compared with fp32 in each runtime, interleaved: times, sizes, mAP and layers kept in float."""
    opened = {f"{runtime} {precision}": predictor(engine, threads) for (runtime, precision), (engine, _) in at.engines.items()}
    times = medians({name: one.detect for name, one in opened.items()}, images, repeats)
    found = {}
    for runtime in ("ort", "openvino"):
        (full, full_report), (small, small_report) = at.engines[runtime, "fp32"], at.engines[runtime, "int8"]
        maps = [one.facts.accuracy.map or 0.0 for one in (full_report, small_report) if one.facts.accuracy]
        fallback = small.facts.fallback
        found[runtime] = {
            "fp32_ms": times[f"{runtime} fp32"],
            "int8_ms": times[f"{runtime} int8"],
            "speedup": times[f"{runtime} fp32"] / times[f"{runtime} int8"],
            "smaller": (full.facts.bytes or 0) / (small.facts.bytes or 1),
            "map": maps[0],
            "map_drop": maps[0] - maps[1],
            "float_layers": len(fallback.float_layers) if fallback else 0,
        }
        row = found[runtime]
        speed = f"fp32 {row['fp32_ms']:.1f} ms, int8 {row['int8_ms']:.1f} ms, {row['speedup']:.2f} times as fast"
        accuracy = f"mAP {row['map']:.4f}, int8 loses {row['map_drop']:.4f}, {row['float_layers']} layers in float"
        print(f"{at.size} px, {runtime}: {speed}, {row['smaller']:.2f} times smaller, {accuracy}")
    for one in opened.values():
        one.session.close()
    return found


def against(at: Deployed, images: Sequence[Image], best: str, threads: int, repeats: int, folder: Path) -> dict[str, float]:
    """Our fastest engine compared with the alternatives, interleaved; ratios above 1 mean that ours is faster."""
    engine = predictor(at.engines[best, "int8"][0], threads)
    parts: list[Timings] = []
    sides: dict[str, Side] = {"edgedistill": lambda image: parts.append(engine.timed(image)[1]), **alternatives(at, threads, folder)}
    times = medians(sides, images, repeats)
    share = statistics.median((one.pre_ms + one.post_ms) / one.end_to_end_ms for one in parts)
    load = partial(image_files.load_image, preprocessing=at.student.facts.contract.preprocessing)
    decoding = statistics.median(_seconds(load, file) for file in at.files) * 1000
    for name, value in times.items():
        print(f"{at.size} px, {name:<14} {value:8.1f} ms   {value / times['edgedistill']:.2f} times our latency")
    pre, infer, post = (statistics.median(getattr(one, f"{part}_ms") for one in parts) for part in ("pre", "infer", "post"))
    print(f"{at.size} px, ours: preprocess {pre:.2f}, network {infer:.1f}, postprocess {post:.2f} ms; decoding the JPEG {decoding:.2f} ms")
    names = {"vs_eager": "torch_eager", "vs_compile": "torch_compile", "vs_openvino": "openvino", "vs_onnxruntime": "onnxruntime"}
    return {key: times[side] / times["edgedistill"] for key, side in names.items()} | {"prepost_share": share}


def _seconds(work: Callable[[Path], object], file: Path) -> float:
    start = time.perf_counter()
    work(file)
    return time.perf_counter() - start


def small_student(store: Store) -> None:
    """Print which precision `precision: auto` chooses for pipeline.yaml's student in ONNX Runtime."""
    config = load(ROOT / "pipeline.yaml")
    dataset, student = trained(config, store)
    model = store.at("small").run(export, config.export, student)
    target = TargetConfig.model_validate({"name": "small", "runtime": "ort", "precision": "auto"})
    choice = store.at("small").run(optimize, target, model, dataset, config.validation.split).facts.choice
    assert choice is not None
    offers = ", ".join(f"{one.precision} {one.p50_ms:.2f} ms at mAP {one.map:.4f}" for one in choice.offers if one.p50_ms and one.map)
    print(f"pipeline.yaml's student, precision auto: {choice.precision} of {offers}")


def main() -> None:
    """Print the tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    store = Store(ROOT / "runs", "benchmark-inference")
    _, student = trained(config_at(TRAINED_PX, 1500), store)
    _, student = trained(config_at(SIZES[0], 400, weights=str(student.root), train__epochs=2), store)
    rows = {}
    for size in SIZES:
        at = deployed(size, student.root, store)
        images = [image_files.load_image(file, at.student.facts.contract.preprocessing) for file in at.files]
        rows[size] = precisions(at, images, args.threads, args.repeats)
    small_student(store)
    best = min(rows[SIZES[-1]], key=lambda runtime: rows[SIZES[-1]][runtime]["int8_ms"])
    folder = ROOT / "runs" / "benchmark-inference"
    ratios = against(at, images, best, args.threads, args.repeats, folder)
    int8 = [rows[size][best] for size in SIZES]
    ratios["int8_speedup"] = min(row["speedup"] for row in int8)
    ratios["int8_map_drop"] = max(row["map_drop"] for row in int8)
    ratios["fp32_map"] = min(row["map"] for row in int8)
    ratios["size_ratio"] = min(row["smaller"] for row in int8)
    print(json.dumps({**{key: round(value, 4) for key, value in ratios.items()}, "runtime": best}))


if __name__ == "__main__":
    main()
