"""How often the latency gate is wrong: many trials of `max_increase: 10%` versus a reference, with the default protocol.

The default student's engine is compared with itself and with slower copies: products are added to its graph until it is 5% and 20%
slower, measured in long interleaved runs before the trials. Each trial reopens both engines. In busy trials, a second process keeps
one core busy. Trials are kept in runs/gate-calibration.jsonl and never repeated; --fresh deletes them.
Usage: python benchmarks/gate_calibration.py [--quiet N] [--busy N] [--fresh]
"""

import argparse
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploy.comparison.interleaved import InterleavedProtocol, take_turns
from deploy.comparison.metrics import Figures
from deploy.comparison.side import Side
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import ort
from pipeline.config import load
from stages.config import GateConfig, ValidationConfig
from stages.exports.to_onnx import write_onnx
from stages.measurement import latency_images
from stages.measurement.verdicts import Judge
from stages.training.checkpoint import build_detector

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "gate-calibration"
ROWS = ROOT / "runs" / "gate-calibration.jsonl"
GATE = GateConfig.model_validate({"metric": "latency_end_to_end_p50_ms", "max_increase": "10%"})
SLOWER = {"same": 0.0, "5 % slower": 0.05, "20 % slower": 0.20}
LONG, OPENED = InterleavedProtocol(min_blocks=30, max_seconds=20), 5
NUM_CLASSES = 10


def student(folder: Path) -> tuple[Path, Any]:
    """The default student's graph with random weights, and its contract."""
    from deploy.contract import ModelContract
    from stages.measurement.torch_accuracy import graph_options

    config = load(ROOT / "pipeline.yaml")
    detector = build_detector(config.student.detector, NUM_CLASSES, 0).eval()
    names = tuple(map(str, range(NUM_CLASSES)))
    contract = ModelContract(preprocessing=config.data.preprocessing, classes=names, category_ids=tuple(range(NUM_CLASSES)))
    folder.mkdir(parents=True, exist_ok=True)
    shape = config.data.preprocessing.height, config.data.preprocessing.width
    write_onnx(detector.graph(graph_options(config.export.decisions)).eval(), shape, folder / "model.onnx")
    return folder / "model.onnx", contract


def with_work(file: Path, out: Path, width: int) -> Path:
    """Write the graph with width x width products on the 8 x 8 px means of its input; zero times their mean is added to the scores."""
    model = onnx.load(file)
    graph = model.graph
    rng = np.random.default_rng(0)
    shapes = {"work_first": (width, 3, 1, 1), "work_second": (width, width, 1, 1)}
    weights = {name: (rng.normal(size=shape) / shape[1]).astype(np.float32) for name, shape in shapes.items()}
    weights["work_zero"] = np.zeros((), np.float32)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    scores = next(output.name for output in graph.output if output.name == "scores")
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == scores:
                node.output[index] = "scores_before"
        for index, name in enumerate(node.input):
            if name == scores:
                node.input[index] = "scores_before"
    graph.node.extend(
        [
            helper.make_node("AveragePool", [graph.input[0].name], ["work_a"], kernel_shape=[8, 8], strides=[8, 8]),
            helper.make_node("Conv", ["work_a", "work_first"], ["work_b"]),
            helper.make_node("Conv", ["work_b", "work_second"], ["work_c"]),
            helper.make_node("ReduceMean", ["work_c"], ["work_d"], keepdims=0),
            helper.make_node("Mul", ["work_d", "work_zero"], ["work_e"]),
            helper.make_node("Add", ["scores_before", "work_e"], [scores]),
        ]
    )
    onnx.save(model, out)
    return out


def side(name: str, file: Path, contract: Any, threads: int | None) -> Side:
    """An ONNX Runtime engine, as one side of the comparison."""

    def nothing() -> list[Any]:
        return []

    return Side(name, Figures(), contract, partial(ort.open, file, threads=threads), nothing)


def rise(own: Side, reference: Side, images: Any) -> float:
    """The share by which `own` is slower in long interleaved runs; median over reopened engines, because memory layout affects speed."""
    changes = []
    for _ in range(OPENED):
        with own.open() as one, reference.open() as other:
            sides = SessionPredictor(one, own.contract), SessionPredictor(other, reference.contract)
            found = take_turns(*sides, images, value=lambda t: t.end_to_end_ms, percentile=50, limit=9e9, relative=True, protocol=LONG)
        changes.append(found.effect.change)
    return float(np.median(changes))


def engines(contract: Any, plain: Path, images: Any, threads: int | None) -> dict[str, tuple[Side, float]]:
    """Each engine and the share by which it is slower; bisection finds the amount of added work."""
    reference = side("the reference", plain, contract, threads)
    made: dict[str, tuple[Side, float]] = {"same": (side("own", plain, contract, threads), 0.0)}
    for name, wanted in SLOWER.items():
        if name == "same":
            continue
        low, high, found = 32, 512, 0.0
        for _ in range(10):  # the cost grows with the width
            width = round((low * high) ** 0.5)
            own = side("own", with_work(plain, RUNS / f"work-{width}.onnx", width), contract, threads)
            found = rise(own, reference, images)
            print(f"{name}: products of {width} x {width} make it {found:+.1%} slower", flush=True)
            if abs(found - wanted) < 0.005 + 0.02 * wanted:
                break
            low, high = (width, high) if found < wanted else (low, width)
        made[name] = (own, found)
    return made


@contextmanager
def busy_core() -> Iterator[None]:
    """Run a second process that computes until the block ends."""
    process = multiprocessing.get_context("spawn").Process(target=_burn, daemon=True)
    process.start()
    time.sleep(1)
    try:
        yield
    finally:
        process.kill()
        process.join()


def _burn() -> None:
    values = np.random.default_rng(0).random((300, 300))
    while True:
        values = values @ values
        values /= np.abs(values).max()


def trial(own: Side, reference: Side) -> dict[str, Any]:
    """One judgment of the gate with its default protocol."""
    judge = Judge(own, {"reference": reference}, None, ValidationConfig())
    start = time.perf_counter()
    verdict = judge.verdict(GATE)
    assert verdict.effect is not None, verdict.why
    change = {"change": verdict.effect.change, "low": verdict.effect.low, "high": verdict.effect.high}
    return {
        "verdict": verdict.verdict,
        **change,
        "seconds": round(time.perf_counter() - start, 2),
        "other_cores": verdict.load and verdict.load.other_cores,
    }


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quiet", type=int, default=100, help="trials per engine on an idle machine")
    parser.add_argument("--busy", type=int, default=40, help="trials while a second process is busy")
    parser.add_argument("--threads", type=int, help="threads of the engines; default: chosen by the runtime")
    parser.add_argument("--fresh", action="store_true", help="delete earlier trials")
    args = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    if args.fresh:
        ROWS.unlink(missing_ok=True)
    plain, contract = student(RUNS)
    images = latency_images.of((), contract.preprocessing)
    made = engines(contract, plain, images, args.threads)
    reference = side("the reference", plain, contract, args.threads)
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []
    done = Counter((row["engine"], row["busy"]) for row in rows)
    plan = [(name, False) for _ in range(args.quiet) for name in SLOWER] + [
        (name, True) for _ in range(args.busy) for name in ("20 % slower",)
    ]
    left = Counter(plan) - done
    with ROWS.open("a", encoding="utf-8") as file:
        for busy in (False, True):
            turn = [name for number in range(max(left.values(), default=0)) for name in SLOWER if number < left[name, busy]]
            if not turn:
                continue
            with busy_core() if busy else _idle():
                for name in turn:
                    row = {"engine": name, "slower": made[name][1], "busy": busy, **trial(made[name][0], reference)}
                    rows.append(row)
                    file.write(json.dumps(row) + "\n")
                    file.flush()
    show(rows)


@contextmanager
def _idle() -> Iterator[None]:
    yield


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table, and the figures as one line of JSON."""
    shares: dict[tuple[str, bool], Counter[str]] = {}
    for row in rows:
        shares.setdefault((row["engine"], row["busy"]), Counter())[row["verdict"]] += 1
    print(f"{'engine':<14}{'machine':<9}{'trials':>7}{'pass':>7}{'fail':>7}{'unclear':>9}{'seconds':>9}")
    for (name, busy), counts in shares.items():
        total = counts.total()
        seconds = np.median([row["seconds"] for row in rows if (row["engine"], row["busy"]) == (name, busy)])
        cells = "".join(f"{counts[kind] / total:>{width}.0%}" for kind, width in (("pass", 7), ("fail", 7), ("inconclusive", 9)))
        print(f"{name:<14}{'busy' if busy else 'quiet':<9}{total:>7}{cells}{seconds:>9.1f}")

    def share(name: str, kind: str, *, busy: bool = False) -> float | None:
        counts = shares.get((name, busy))
        return None if counts is None else round(counts[kind] / counts.total(), 3)

    figures = {"fail_same": share("same", "fail"), "pass_same": share("same", "pass"), "fail_20": share("20 % slower", "fail")}
    figures |= {"fail_5": share("5 % slower", "fail"), "busy_pass_20": share("20 % slower", "pass", busy=True)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
