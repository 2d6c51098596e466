"""Is the time of a step on several hosts what docs/scaling.md predicts? Three hosts on this machine, whose network is shaped with tc.

Needs root on Linux: the hosts are network namespaces. All three share this machine's cores, so the time of a step without a slow network
is measured, too: alternately with each bandwidth, in short turns. They compute in turn, so the gradients of all three are ready only at the
end of the step, and nothing is exchanged before. The last line is JSON: measured and predicted milliseconds and their
ratio, by bandwidth.
Usage: python benchmarks/hosts.py [--rates 200 80 40] [--rounds 4] [--steps 6]
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "samples"), str(ROOT)]  # for the hosts and the data

FREE = "no limit"
NETWORK = {
    "name": "fcos",
    "backbone": "resnet10",
    "width": 32,
    "norm": "batch",
    "fpn_channels": 64,
    "strides": (8, 16),
    "head_convs": 2,
    "range_scale": 0.5,
}
BATCH = 6


def trainer(folder: Path) -> Any:
    """A training of the network on a few small images, in this process."""
    import tiny

    from stages.artifacts import Dataset
    from stages.training.checkpoint import build_detector
    from stages.training.loop import Task, Trainer

    schedule = tiny.schedule(batch_size=BATCH, learning_rate=1e-5)
    task = Task(build_detector(tiny.detector(NETWORK), 10))
    return Trainer(task, Dataset(folder / "data"), schedule, seed=0, device="cpu", folder=folder, label="hosts")


def work(folder: Path) -> None:
    """In a process of torchrun: train until killed, and print when each step began and ended, on a clock that all processes share."""
    made = trainer(folder)
    made._model.train()  # noqa: SLF001 - the very object that a training uses
    batch = next(made._loaded())  # noqa: SLF001
    if made.place[0] == 0:
        from stages.training.costs.exchange import exchange_of

        found = exchange_of(made._task)  # noqa: SLF001
        print("exchange", json.dumps([found.buckets, found.norms, found.buffers]), flush=True)
    while True:
        began = time.monotonic()
        made.step(batch)
        if made.place[0] == 0:
            print("step", began, time.monotonic(), flush=True)


def steps(lines: list[str], since: float) -> list[float]:
    """Seconds of the steps that began after a moment."""
    found = [tuple(map(float, line.split()[1:])) for line in lines if line.startswith("step ")]
    return [ended - began for began, ended in found if began > since]


def measure(folder: Path, rates: list[int], rounds: int, count: int) -> tuple[Any, dict[str, list[float]]]:
    """What is exchanged, and the seconds of each step at each rate in Mbit/s."""
    from hosts import Hosts
    from waiting import until

    from stages.training.costs.exchange import Exchange

    taken: dict[str, list[float]] = {FREE: [], **{str(rate): [] for rate in rates}}
    order = random.Random(0)  # noqa: S311 - an order
    with Hosts("a", "b", "c") as three:
        command = [sys.executable, "-P", __file__, "--work", str(folder)]
        first = three.torchrun(command)[0]
        until(lambda: len(steps(first.lines, 0)) > count or first.process.poll() is not None, "the first steps", 300)
        if first.process.poll() is not None:
            raise SystemExit(first.text)
        for number in range(rounds):
            for name in order.sample(list(taken), len(taken)):
                three.shape(*([] if name == FREE else ["tbf", "rate", f"{name}mbit", "burst", "32kb", "latency", "400ms"]))
                since = time.monotonic()
                until(lambda since=since: len(steps(first.lines, since)) > count, f"{count} steps at {name}", 300)  # type: ignore[misc]
                own = steps(first.lines, since)[1 : count + 1]  # the first fills what the shaping lets through at once
                taken[name] += own
                print(f"round {number + 1}, {name}: {1000 * statistics.median(own):.0f} ms", flush=True)
        line = next(line for line in first.lines if line.startswith("exchange "))
    buckets, norms, buffers = json.loads(line.partition(" ")[2])
    return Exchange(tuple(buckets), tuple(norms), buffers), taken


def report(exchange: Any, taken: dict[str, list[float]]) -> dict[str, Any]:
    """Measured and predicted, by rate."""
    from stages.training.costs.exchange import PAYLOAD, step_seconds

    alone = statistics.median(taken[FREE])
    found: dict[str, Any] = {"bytes": exchange.total, FREE: {"measured_ms": round(1000 * alone)}}
    for name in (one for one in taken if one != FREE):
        measured = statistics.median(taken[name])
        predicted = step_seconds(exchange, alone, 3, PAYLOAD * int(name) * 1e6 / 8, backward=0.0)
        ratio = round(predicted / measured, 3)
        found[f"{name} Mbit/s"] = {"measured_ms": round(1000 * measured), "predicted_ms": round(1000 * predicted), "ratio": ratio}
    return found


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[200, 80, 40], help="Mbit/s")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="counted steps of a turn")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work is not None:
        work(args.work)
        return
    from hosts import why_not

    if (reason := why_not()) is not None:
        print(json.dumps({"skipped": reason}))
        return
    import tiny

    with tempfile.TemporaryDirectory() as scratch:
        tiny.dataset(Path(scratch) / "data", train_images=BATCH)
        print(json.dumps(report(*measure(Path(scratch), args.rates, args.rounds, args.steps))))


if __name__ == "__main__":
    main()
