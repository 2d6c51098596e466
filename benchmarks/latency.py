"""Ratios of latencies on a busy machine and on a quiet one: engines measured together, as stage `measure` does, and each on its own.

The engines are those of a pipeline's run (reused from runs/ if they are there): the teacher, the baseline, and the student in the fp32
and int8 of its CPU targets. Teacher and student differ, fp32 and int8 too; baseline and student are one network, so their ratio is 1.
A repeat measures both ways with nothing else running, then both ways while as many other processes as there are cores compute.
"Each on its own" is the usual way: warm-up, then passes of one engine after another, in all for as long as together.
Usage: python benchmarks/latency.py [--config FILE] [--runs DIR] [--repeats N] [--processes N]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from deploy.contract import Ratio
from deploy.latency.measure import LatencyProtocol, measure_together
from deploy.prediction.predictor import SessionPredictor
from pipeline.config import PipelineConfig, load
from pipeline.config.derived import reference
from pipeline.flow import compress
from pipeline.store.store import Store
from stages.artifacts import Engine
from stages.export import export
from stages.measurement import latency_images
from stages.measurement.sessions import open_session
from stages.measurement.splits import labeled_split
from stages.optimize import judging, optimize

ROOT = Path(__file__).parents[1]
PAIRS = (("teacher", "student"), ("student", "int8"), ("baseline", "student"))
Image = NDArray[np.uint8]
Ratios = dict[str, Ratio]


def engines_of(config: PipelineConfig, store: Store) -> tuple[dict[str, Engine], Sequence[Path]]:
    """The engines by name, and the photographs that the run measures latency on."""
    result = compress(config, store)
    found = {}
    for target in result.targets:
        facts = target.engine.facts
        if facts.runtime == "ort" and facts.precision in ("fp32", "int8"):
            found["student" if facts.precision == "fp32" else "int8"] = target.engine
    if len(found) < 2:
        raise SystemExit("the pipeline needs targets of runtime ort in fp32 and in int8, which this machine can run")
    for name in ("teacher", "baseline"):
        at, target = store.at(name), reference(name)
        model = at.run(export, config.export, result.networks[name])
        found[name] = at.run(optimize, target, model, result.dataset, *judging(target, config.validation))
    return found, labeled_split(result.dataset, config.validation.split).images


def together(engines: Mapping[str, SessionPredictor], images: Sequence[Image], seconds: float, seed: int) -> Ratios:
    """The pairs' ratios with their intervals, all engines measured in one go."""
    found = measure_together(engines, images, LatencyProtocol(budget_seconds=seconds), seed=seed)
    return {f"{a}/{b}": found.ratios[a][b] for a, b in PAIRS}


def alone(engines: Mapping[str, SessionPredictor], images: Sequence[Image], seconds: float) -> dict[str, float]:
    """The pairs' ratios of medians, one engine after another, `seconds` for all of them."""
    times = {}
    for name, engine in engines.items():
        supply, taken, start = cycle(images), [], perf_counter()
        for _ in range(20):
            engine.detect(next(supply))
        while len(taken) < 100 or perf_counter() - start < seconds / len(engines):
            taken.append(engine.timed(next(supply))[1].end_to_end_ms)
        times[name] = median(taken)
    return {f"{a}/{b}": times[a] / times[b] for a, b in PAIRS}


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that compute without a pause."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


def measured(engines: Mapping[str, SessionPredictor], images: Sequence[Image], repeats: int, processes: int) -> dict[str, list[Ratios]]:
    """All ratios by "quiet together", "busy alone" and so on, one entry per repeat."""
    found: dict[str, list[Ratios]] = {}
    for repeat in range(repeats):
        for state, count in (("quiet", 0), ("busy", processes)):
            with busy(count):
                start = perf_counter()
                found.setdefault(f"{state} together", []).append(together(engines, images, 30.0, repeat))
                single = alone(engines, images, perf_counter() - start)
            points = {pair: Ratio(ratio=one, low=one, high=one) for pair, one in single.items()}
            found.setdefault(f"{state} alone", []).append(points)
    return found


def overlap(ratios: Sequence[Ratio]) -> bool:
    """Whether all intervals share a value."""
    return max(one.low for one in ratios) <= min(one.high for one in ratios)


def spread(ratios: Sequence[Ratio]) -> float:
    """The largest ratio over the smallest, minus 1."""
    points = [one.ratio for one in ratios]
    return max(points) / min(points) - 1


def summary(found: Mapping[str, Sequence[Ratios]]) -> dict[str, object]:
    """Print a line per way and pair, and return the figures of the JSON line."""
    pairs = [f"{a}/{b}" for a, b in PAIRS]
    table = {(way, pair): [repeat[pair] for repeat in repeats] for way, repeats in found.items() for pair in pairs}
    for (way, pair), ratios in table.items():
        shown = ", ".join(f"{one.ratio:.3f}" + (f" ({one.low:.3f} to {one.high:.3f})" if one.low < one.high else "") for one in ratios)
        print(f"{way:<15} {pair:<17} {shown}; spread {spread(ratios):.1%}")
    same = table["busy together", "baseline/student"]
    worst = {way: max(spread(table[way, pair]) for pair in pairs) for way in found}
    return {
        "busy_spread_together": round(worst["busy together"], 4),
        "busy_spread_alone": round(worst["busy alone"], 4),
        "alone_vs_together": round(worst["busy alone"] / max(worst["busy together"], 1e-9), 2),
        "quiet_spread_together": round(worst["quiet together"], 4),
        "quiet_spread_alone": round(worst["quiet alone"], 4),
        "busy_intervals_overlap": all(overlap(table["busy together", pair]) for pair in pairs),
        "same_network_contains_1": all(one.low <= 1 <= one.high for one in same),
        "busy_vs_quiet": round(max(_apart(table["busy together", pair], table["quiet together", pair]) for pair in pairs), 4),
    }


def _apart(some: Sequence[Ratio], others: Sequence[Ratio]) -> float:
    """How far the medians of two groups of ratios are apart, as a fraction."""
    return abs(median(one.ratio for one in some) / median(one.ratio for one in others) - 1)


def main() -> None:
    """Print all ratios and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "pipeline.yaml")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    config = load(args.config)
    built, files = engines_of(config, Store(args.runs, config.name))
    with ExitStack() as stack:
        opened = {name: stack.enter_context(open_session(engine, config.validation.latency.threads)) for name, engine in built.items()}
        engines = {name: SessionPredictor(session, built[name].facts.contract) for name, session in opened.items()}
        images = latency_images.of(files, next(iter(built.values())).facts.contract.preprocessing)
        found = measured(engines, images, args.repeats, args.processes)
    print(json.dumps(summary(found)))


if __name__ == "__main__":
    main()
