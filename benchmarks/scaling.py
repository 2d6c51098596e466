"""What each detector exchanges in a training step, and a step's time on several hosts: docs/scaling.md has the table.

Detectors have their default options and 80 classes; a distilled student exchanges the adapters of its losses, too. With --step, the time of
a step on one host in ms, measured with the images that it would have of each batch, it also predicts the step of every detector for that
time. The last line is JSON.
Usage: python benchmarks/scaling.py [--hosts 4] [--rate 10] [--latency 50] [--step MS] [--only NAME ...]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CLASSES = 80
HEADER = "| detector | gradients | buffers | synchronized norms | seconds of exchange |"


def exchange(name: str) -> Any:
    """What a detector with its default options exchanges."""
    from stages.config import DetectorConfig
    from stages.training.checkpoint import build_detector
    from stages.training.costs.exchange import exchange_of

    return exchange_of(build_detector(DetectorConfig.model_validate({"name": name}), CLASSES, pretrained=False))


def row(name: str, found: Any, hosts: int, rate: float, latency: float) -> str:
    """A row of the table: MB, and seconds of exchange if none of it is hidden behind the computation."""
    from stages.training.costs.exchange import PAYLOAD, step_seconds

    bare = step_seconds(found, 0.0, hosts, PAYLOAD * rate * 1e9 / 8, latency * 1e-6)
    norms = f"{len(found.norms)}, {sum(found.norms) / 1e6:.2f} MB" if found.norms else "none"
    return f"| `{name}` | {found.gradients / 1e6:.1f} MB | {found.buffers / 1e6:.2f} MB | {norms} | {bare:.3f} |"


def main() -> None:
    """The command line; the module's docstring describes it."""
    from deploy import plugins

    names = plugins.names("stages.detectors")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--rate", type=float, default=10.0, help="Gbit/s of every host's link")
    parser.add_argument("--latency", type=float, default=50.0, help="microseconds of a small message")
    parser.add_argument("--step", type=float, help="milliseconds of a step on one host")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    args = parser.parse_args()
    from stages.training.costs.exchange import PAYLOAD, step_seconds

    print(f"{HEADER}\n| --- | --- | --- | --- | --- |")
    found: dict[str, dict[str, Any]] = {}
    for name in args.only:
        one = exchange(name)
        print(row(name, one, args.hosts, args.rate, args.latency), flush=True)
        found[name] = {"gradients": one.gradients, "buffers": one.buffers, "norms": len(one.norms)}
        if args.step is not None:
            seconds = step_seconds(one, args.step / 1000, args.hosts, PAYLOAD * args.rate * 1e9 / 8, args.latency * 1e-6)
            found[name]["step_ms"] = round(1000 * seconds, 1)
    print(json.dumps({"hosts": args.hosts, "gbit_per_s": args.rate, "detectors": found}))


if __name__ == "__main__":
    main()
