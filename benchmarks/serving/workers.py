"""Two workers of `edgedistill serve` against two bare engine processes, with the clients of both on the same two cores.

Run `make run` first. All engines run on one thread, decode the same JPEG files of 512 px, and answer with the same boxes as JSON. The bare
processes read the same requests from plain sockets, one after another, and are not a server: no checks, no limits, no metrics. Eight
connections send the next request immediately, four to each bare process, all to the workers' port. Nothing is pinned to a core of the two.
Both sides alternate in random order; the median of the rounds' ratios is reported, with examples/edge.yaml's student at 320 px (of fresh
weights, which decide no time), with the bundle's student at 192 px, and with it unchanged. The last line is JSON.
Usage: python benchmarks/serving/workers.py [BUNDLE] [--rounds N] [--seconds S] [--cores N ...]
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from run import BUNDLE, CONNECTIONS, ROOT, enlarged, example, exported, photos, validation
from serving_samples import Reply, load, once, request

from deploy.bundles.bundle import Bundle

CORES = [0, 1]
SLOWER = 5
"""How many times as long the edge student's rounds are; there are fewer of them."""
OURS, BARE = "workers", "bare"
SERVE = "import sys; from pipeline.cli import main; sys.exit(main())"
OPTIONS = ("workers=2", "threads=1", "drain_seconds=0")


def ports(count: int) -> list[int]:
    """Free ports."""
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in free]


@contextmanager
def started(command: Sequence[object], port: int) -> Iterator[None]:
    """A server in a process that may use both cores, once it answers."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    silent = subprocess.DEVNULL
    words = list(map(str, command))
    process = subprocess.Popen(words, env=environment, stdout=silent, stderr=silent, start_new_session=True)  # noqa: S603 - no input from outside
    try:
        for _ in range(600):
            time.sleep(0.1)
            assert process.poll() is None, f"{words} ended while starting"
            try:
                if asyncio.run(once(port, request(example()))).status == 200:
                    break
            except OSError:
                continue
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rate(where: Sequence[int], contents: Sequence[bytes], seconds: float) -> float:
    """Images per second over all ports together, with the connections divided among them."""
    until = time.monotonic() + seconds

    def asked(number: int) -> bytes:
        return request(contents[number % len(contents)])

    def go_on(_: int) -> bool:
        return time.monotonic() < until

    async def ask() -> list[list[Reply]]:
        return list(await asyncio.gather(*(load(port, CONNECTIONS // len(where), asked, go_on) for port in where)))

    start = time.perf_counter()
    replies = [reply for side in asyncio.run(ask()) for reply in side]
    assert {reply.status for reply in replies} == {200}
    return len(replies) / (time.perf_counter() - start)


def compare(folder: Path, contents: Sequence[bytes], rounds: int, seconds: float) -> dict[str, Any]:
    """Images per second of both sides, alternating."""
    rates: dict[str, list[float]] = {OURS: [], BARE: []}
    draw = random.Random(0)  # noqa: S311 - an order
    own, *others = ports(3)
    settings = [f"--set={option}" for option in OPTIONS]
    with ExitStack() as stack:
        stack.enter_context(started([sys.executable, "-c", SERVE, "serve", folder, "--port", own, "--allow-ungated", *settings], own))
        for port in others:
            stack.enter_context(started([sys.executable, Path(__file__).with_name("bare_process.py"), folder, port], port))
        sides = {OURS: [own], BARE: others}
        for number in range(rounds + 1):  # the first is the warm-up
            for name in draw.sample(list(sides), 2):
                found = rate(sides[name], contents, seconds)
                if number:
                    rates[name].append(found)
    ratios = [one / other for one, other in zip(rates[OURS], rates[BARE], strict=True)]
    return {
        "ratio": round(float(np.median(ratios)), 3),
        "quartiles": [round(float(value), 3) for value in np.percentile(ratios, (25, 75))],
        "images_per_s": {name: round(float(np.median(values)), 1) for name, values in rates.items()},
    }


def edge_student(given: Bundle, out: Path) -> Path:
    """The student of examples/edge.yaml, with the classes and all else of a bundle."""
    from pipeline import config
    from stages.training.checkpoint import build_detector

    edge = config.load(ROOT / "examples" / "edge.yaml")
    detector = build_detector(edge.student.detector, len(given.manifest.contract.classes), 0, pretrained=False)
    return exported(given, detector, edge.data.preprocessing.height, out)


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=BUNDLE)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of each side in each round")
    parser.add_argument("--cores", type=int, nargs="+", default=CORES, help="cores of the clients and of both sides")
    args = parser.parse_args()
    os.sched_setaffinity(0, set(args.cores))
    bundle = Bundle.load(args.bundle)
    contents = photos(validation(bundle)[1])
    ratios = {}
    with TemporaryDirectory() as scratch:
        kinds = {
            "edge": edge_student(bundle, Path(scratch) / "edge"),
            "192px": enlarged(bundle, Path(scratch) / "large"),
            "default": bundle.root,
        }
        for name, folder in kinds.items():
            longer = SLOWER if name == "edge" else 1  # so that a round has dozens of images, too
            found = compare(folder, contents, args.rounds // longer, args.seconds * longer)
            print(f"{name}: {found}", flush=True)
            ratios[f"vs_two_engines_{name}"] = found["ratio"]
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
