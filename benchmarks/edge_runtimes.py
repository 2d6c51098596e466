"""Milliseconds per image of every runtime of a CPU, in every precision, for pipeline.yaml's student and examples/edge.yaml's.

The students are trained without a teacher (kept in runs/ and not repeated). Boxes are decoded on the host, which all of these runtimes
can; ONNX Runtime in fp32 also decodes them in the graph, and that engine is the one the others are compared with. Engines are measured
together, as stage `measure` does, from a decoded photograph to boxes in its pixels, with the same number of threads; mAP is that of split
val. The last line is JSON: ratios with their 95% intervals and mAP, by student and engine.
Usage: python benchmarks/edge_runtimes.py [--students NAME ...] [--seconds N] [--threads N]
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from inference import ROOT, SIZES, TRAINED_PX, config_at, predictor, trained

from deploy.latency.measure import LatencyProtocol, measure_together
from deploy.prediction import image_files
from pipeline.config import PipelineConfig, load
from pipeline.store.store import Store
from stages.artifacts import Checkpoint, Dataset, Engine
from stages.config import TargetConfig
from stages.export import export
from stages.measurement.splits import labeled_split
from stages.optimize import judging, optimize
from stages.validate import validate

REFERENCE = "ort fp32, boxes in the graph"
RUNTIMES = {
    "ort": ("fp32", "int8"),
    "openvino": ("fp32", "int8"),
    "litert": ("fp32", "fp16", "int8"),
    "ncnn": ("fp32", "fp16"),
}
Student = tuple[PipelineConfig, Dataset, Checkpoint]


def default_student(store: Store) -> Student:
    """pipeline.yaml's, at 96 px."""
    config = load(ROOT / "pipeline.yaml")
    return config, *trained(config, store)


def edge_student(store: Store) -> Student:
    """examples/edge.yaml's at 320 px, trained first on small images."""
    _, small = trained(config_at(TRAINED_PX, 1500), store)
    config = config_at(SIZES[0], 400, weights=str(small.root), train__epochs=2)
    return config, *trained(config, store)


STUDENTS: dict[str, Callable[[Store], Student]] = {"default": default_student, "edge": edge_student}


def built(student: Student, store: Store) -> tuple[dict[str, Engine], dict[str, float | None]]:
    """Engines and their mAP on split val, by name."""
    config, dataset, checkpoint = student
    models = {how: store.at(how).run(export, config.export.model_copy(update={"decode": how}), checkpoint) for how in ("graph", "host")}
    wanted = {REFERENCE: ("graph", "ort", "fp32")}
    wanted |= {f"{runtime} {precision}": ("host", runtime, precision) for runtime, some in RUNTIMES.items() for precision in some}
    engines, maps = {}, {}
    for name, (how, runtime, precision) in wanted.items():
        target = TargetConfig.model_validate({"name": f"{how}-{runtime}-{precision}", "runtime": runtime, "precision": precision})
        view = store.at(target.name)
        engine = view.run(optimize, target, models[how], dataset, *judging(target, config.validation))
        if engine.facts.file is None:
            raise SystemExit(f"{name}: {engine.facts.reason}")
        accuracy = view.run(validate, config.validation, engine, dataset).facts.accuracy
        engines[name], maps[name] = engine, None if accuracy is None else accuracy.map
    return engines, maps


def measure(name: str, seconds: float, threads: int) -> dict[str, Any]:
    """One student's table."""
    store = Store(ROOT / "runs", f"benchmark-edge-{name}")
    student = STUDENTS[name](store)
    engines, maps = built(student, store)
    split = labeled_split(student[1], student[0].validation.split)
    contract = engines[REFERENCE].facts.contract
    images = [image_files.load_image(file, contract.preprocessing) for file in split.images[:40]]
    opened = {one: predictor(engine, threads) for one, engine in engines.items()}
    found = measure_together(opened, images, LatencyProtocol(budget_seconds=seconds))
    for one in opened.values():
        one.session.close()
    print(
        f"\n{name}: {contract.preprocessing.width} px, {len(split.images)} images judged, {found.rounds} rounds, drift {found.drift:+.3f}"
    )
    print("| engine | mAP | ms | times as long as the first | bytes |\n| --- | --- | --- | --- | --- |")
    rows: dict[str, Any] = {}
    for one, engine in engines.items():
        ratio = None if one == REFERENCE else found.ratios[one][REFERENCE]
        cell = "" if ratio is None else f"{ratio.ratio:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        print(f"| {one} | {maps[one]:.4f} | {found.latencies[one].end_to_end.p50:.1f} | {cell} | {engine.facts.bytes:,} |")
        if ratio is not None:
            rows[one] = {"ratio": [round(value, 3) for value in (ratio.ratio, ratio.low, ratio.high)], "map": maps[one]}
    return {REFERENCE: {"map": maps[REFERENCE]}, **rows}


def main() -> None:
    """Print the tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=STUDENTS)
    parser.add_argument("--seconds", type=float, default=120.0, help="of measuring, for each student")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps({name: measure(name, args.seconds, args.threads) for name in args.students}))


if __name__ == "__main__":
    main()
