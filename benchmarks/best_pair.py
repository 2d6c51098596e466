"""Which runtime and precision `runtime: auto` chooses on this machine, for pipeline.yaml's student: the table of docs/engines.md.

The student is trained without a teacher (a minute on one core, kept in runs/ and not repeated). Run it with nothing else running on
the machine. The last line is JSON.
Usage: python benchmarks/best_pair.py [--threads N] [--max-map-drop DROP]
"""

import argparse
import json
from pathlib import Path

from deploy.engines.choice import Choice
from pipeline.config import load
from pipeline.results.table import between
from pipeline.store.store import Mode, Store
from stages.config import TargetConfig
from stages.export import export
from stages.optimize import optimize
from stages.prepare import prepare
from stages.train import train_baseline

ROOT = Path(__file__).parents[1]
FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def chosen(threads: int | None, limit: float) -> Choice:
    """The choice, made again; training and export are reused."""
    config, store = load(ROOT / "pipeline.yaml"), Store(ROOT / "runs", "benchmark-best-pair", Mode(force="optimize"))
    split = config.validation.split
    dataset = store.run(prepare, config.data)
    student = store.run(train_baseline, config.student, config.seed, "cpu", split, dataset, config.export.decisions)
    model = store.run(export, config.export, student)
    target = TargetConfig.model_validate({"name": "best", "runtime": "auto", "precision": "auto", "max_map_drop": limit})
    choice = store.run(optimize, target, model, dataset, split, threads).facts.choice
    assert choice is not None
    return choice


def features() -> list[str]:
    """This processor's instructions for vectors and for integers, as Linux calls them."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return [name for name in FEATURES if name in flags]


def table(choice: Choice) -> str:
    """The candidates in Markdown."""
    lines = [
        "| runtime | precision | mAP | mAP lost | times as long as the chosen one | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in choice.offers:
        accuracy = [f"{one.map:.4f}" if one.map is not None else "", f"{round(one.drop, 4) + 0.0:.4f}" if one.drop is not None else ""]
        ratio = between(one.ratio.model_dump()) if one.ratio is not None else ""
        verdict = choice.verdict(one) + (f": {one.why}" if one.why else "")
        lines.append("| " + " | ".join([f"`{one.runtime}`", one.precision, *accuracy, ratio, verdict]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--max-map-drop", type=float, default=0.01)
    args = parser.parse_args()
    choice = chosen(args.threads, args.max_map_drop)
    print(table(choice))
    for runtime, why in choice.left_out.items():
        print(f"{runtime} was left out: {why}")
    if choice.warning is not None:
        print(f"disturbed: {choice.warning}")
    print(json.dumps({"cpu": features(), "threads": args.threads, **choice.figures()}))


if __name__ == "__main__":
    main()
