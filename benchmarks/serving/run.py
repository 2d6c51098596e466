"""Overhead of serving: images per second and waiting times of `edgedistill serve`, its engine alone, LitServe and plain FastAPI.

Run `make run` first. The default student is exported for 192 px, so that its engine takes at least 10 ms per image on one thread. All
sides run that engine on one thread, decode the same JPEG files of 512 px, and answer with the same boxes as JSON. Servers are pinned
to the first core, clients to the second. The sides alternate in random order; the median of the rounds' ratios is reported.

Closed loop: eight connections that each send the next request immediately. Open loop, at half of our server's maximum rate: requests
at even intervals, like perf_analyzer's, each timed from when it was due; and at random intervals (Poisson), for which queueing theory
alone predicts a p99 of four times the engine's. Finally, the default student at its own size, and the mAP of all validation images
through the server.
Usage: python benchmarks/serving/run.py [BUNDLE] [--rounds N] [--seconds S]      (pip install -r benchmarks/serving/requirements.txt)
"""

import argparse
import asyncio
import importlib.util
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "samples"))  # for the client that uses plain sockets

from bare_engine import BareEngine  # noqa: E402
from serving_samples import Client, Reply, load, once, request  # noqa: E402

from deploy.accuracy import coco  # noqa: E402
from deploy.bundles.bundle import Bundle, sha256, write  # noqa: E402
from deploy.contract import Preprocessing  # noqa: E402
from deploy.prediction import image_files  # noqa: E402

if TYPE_CHECKING:
    from stages.detectors import Detector

BUNDLE = ROOT / "runs" / "digits" / "bundle" / "cpu-fp32"
SIZE, PHOTO, NUM_PHOTOS, CONNECTIONS = 192, 512, 32, 8
SERVER_CORE, CLIENT_CORE = 0, 1
RIVALS = ("litserve", "fastapi")
PATHS = {"ours": "/v1/detect", "litserve": "/predict", "fastapi": "/v1/detect"}


class PinnedServer:
    """A server in a process pinned to the first core."""

    def __init__(self, name: str, folder: Path, settings: Sequence[str] = ()) -> None:
        self.name = name
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if name == "ours":
            options = [f"--set={setting}" for setting in ("threads=1", "drain_seconds=0", *settings)]
            command = [sys.executable, "-c", "import sys; from pipeline.cli import main; sys.exit(main())"]
            command += ["serve", str(folder), "--port", str(self.port), "--allow-ungated", *options]
        else:
            command = [sys.executable, str(Path(__file__).with_name(f"{name}_server.py")), str(folder), str(self.port)]
        self.process = subprocess.Popen(  # noqa: S603 - no input from outside
            ["taskset", "-c", str(SERVER_CORE), *command],  # noqa: S607 - part of every Linux
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(1200):
            time.sleep(0.1)
            assert self.process.poll() is None, f"{name} ended while starting"
            try:
                if asyncio.run(once(self.port, self.content(example()))).status == 200:
                    return
            except OSError:
                continue
        raise AssertionError(f"{name} did not start")

    def content(self, photo: bytes) -> bytes:
        """A request that sends the photo."""
        return request(photo, PATHS[self.name], headers="content-type: application/octet-stream\r\n")

    def close(self) -> None:
        """Kill the server and its child processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def example() -> bytes:
    """Any JPEG."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    return file.getvalue()


def photos(files: Sequence[Path]) -> list[bytes]:
    """The data's images as JPEG files of PHOTO px."""
    made = []
    for path in files[:NUM_PHOTOS]:
        file = io.BytesIO()
        image = Image.fromarray(image_files.load_image(path, Preprocessing()))
        image.resize((PHOTO, PHOTO), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def enlarged(given: Bundle, out: Path) -> Path:
    """The bundle's student exported for SIZE px, as a bundle without verdicts."""
    from stages.artifacts import Checkpoint
    from stages.training.checkpoint import load_detector

    runs = given.root.resolve().parents[2]
    return exported(given, load_detector(Checkpoint(runs / ".store" / given.manifest.graph.network.checkpoint)), SIZE, out)


def exported(given: Bundle, detector: "Detector", size: int, out: Path) -> Path:
    """A detector of the bundle's classes, exported for `size` px, as a bundle without verdicts."""
    from stages.config import ExportConfig
    from stages.exports.to_onnx import write_onnx
    from stages.measurement.torch_accuracy import graph_options

    manifest = given.manifest
    out.mkdir(parents=True)
    decisions = ExportConfig(max_detections=manifest.graph.max_detections)
    write_onnx(detector.graph(graph_options(decisions)).eval(), (size, size), out / "engine.onnx")
    preprocessing = manifest.contract.preprocessing.model_copy(update={"height": size, "width": size})
    contract = manifest.contract.model_copy(update={"preprocessing": preprocessing})
    graph = manifest.graph.model_copy(update={"sha256": sha256(out / "engine.onnx")})
    plan = manifest.plan.model_copy(update={"gates": ()})
    changed = {"graph": graph, "contract": contract, "engine": "engine.onnx", "onnx": "engine.onnx", "plan": plan, "verdicts": ()}
    return write(out, manifest.model_copy(update=changed), ["engine.onnx"]).root


def bare(engine: BareEngine, contents: Sequence[bytes], seconds: float) -> tuple[float, list[float]]:
    """Images per second of a bare loop on the server's core, and the seconds of each pass."""
    os.sched_setaffinity(0, {SERVER_CORE})
    taken: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        json.dumps(engine(contents[len(taken) % len(contents)]))
        taken.append(time.perf_counter() - before)
    rate = len(taken) / (time.perf_counter() - start)
    os.sched_setaffinity(0, {CLIENT_CORE})
    return rate, taken


def closed(side: PinnedServer, contents: Sequence[bytes], seconds: float) -> float:
    """Images per second with connections that send the next request immediately."""
    until = time.monotonic() + seconds
    start = time.perf_counter()
    replies = asyncio.run(
        load(side.port, CONNECTIONS, lambda n: side.content(contents[n % len(contents)]), lambda _: time.monotonic() < until)
    )
    assert {reply.status for reply in replies} == {200}
    return len(replies) / (time.perf_counter() - start)


def opened(side: PinnedServer, contents: Sequence[bytes], rate: float, seconds: float, *, even: bool) -> list[float]:
    """Seconds from when each request was due to its answer, at `rate` requests per second."""
    draw = random.Random(0)  # noqa: S311 - only an order

    async def ask() -> list[float]:
        clients = [Client(side.port) for _ in range(32)]
        free: asyncio.Queue[Client] = asyncio.Queue()
        for client in clients:
            free.put_nowait(client)
        late: list[float] = []

        async def one(due: float, content: bytes) -> None:
            client = await free.get()
            reply: Reply = await client.ask(content)
            assert reply.status == 200
            late.append(time.perf_counter() - due)
            free.put_nowait(client)

        tasks = []
        due = time.perf_counter() + 0.05
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(due, side.content(contents[len(tasks) % len(contents)]))))
            due += 1 / rate if even else draw.expovariate(rate)
        await asyncio.gather(*tasks)
        for client in clients:
            client.close()
        return late

    return asyncio.run(ask())


def compare(folder: Path, names: Sequence[str], contents: Sequence[bytes], rounds: int, seconds: float) -> dict[str, Any]:
    """Images per second of each side and of the bare loop, alternating; then waiting times at half load."""
    engine, draw = BareEngine(folder), random.Random(0)  # noqa: S311 - an order
    sides = {name: PinnedServer(name, folder) for name in names}
    try:
        rates: dict[str, list[float]] = {name: [] for name in ("engine", *names)}
        passes: list[float] = []
        for number in range(rounds + 1):  # the first is the warm-up
            for name in draw.sample(list(rates), len(rates)):
                if name == "engine":
                    rate, taken = bare(engine, contents, seconds)
                    passes += taken if number else []
                else:
                    rate = closed(sides[name], contents, seconds)
                if number:
                    rates[name].append(rate)
        half = float(np.median(rates["ours"])) / 2
        waits: dict[str, list[float]] = {"even": [], "poisson": []}
        for _ in range(rounds // 5):
            for kind in draw.sample(list(waits), 2):
                waits[kind] += opened(sides["ours"], contents, half, 4 * seconds, even=kind == "even")
            passes += bare(engine, contents, 2 * seconds)[1]
    finally:
        for side in sides.values():
            side.close()
    p99 = {kind: float(np.percentile(values, 99)) for kind, values in {"engine": passes, **waits}.items()}
    return {"rates": rates, "p99": p99, "p50": {kind: float(np.median(values)) for kind, values in {"engine": passes, **waits}.items()}}


def map_difference(bundle: Bundle, truth: dict[str, Any], files: Sequence[Path]) -> float:
    """The difference between the mAP of all validation images through the server and the mAP that the bundle was measured with."""
    side = PinnedServer("ours", bundle.root)

    async def ask() -> list[dict[str, Any]]:
        client, found = Client(side.port), []
        for image, file in zip(truth["images"], files, strict=True):
            answer = json.loads((await client.ask(side.content(file.read_bytes()))).body)
            found += [{**one, "image_id": image["id"]} for one in answer["annotations"]]
        client.close()
        return found

    try:
        accuracy, _ = coco.evaluate(truth, asyncio.run(ask()), "val", bundle.manifest.contract.classes)
    finally:
        side.close()
    measured = bundle.manifest.accuracy
    assert measured is not None
    assert measured.map is not None
    assert accuracy.map is not None
    return abs(accuracy.map - measured.map)


def validation(bundle: Bundle) -> tuple[dict[str, Any], list[Path]]:
    """The ground truth and the files that the bundle was measured on, from the store next to it."""
    store = bundle.root.resolve().parents[2] / ".store"
    assert bundle.manifest.accuracy is not None
    split = bundle.manifest.accuracy.split
    for facts in store.glob("prepare-*/artifact.json"):
        one = json.loads(facts.read_text())["splits"].get(split)
        if one and one["num_images"] == bundle.manifest.accuracy.num_images:
            truth = json.loads((facts.parent / one["annotations"]).read_text())
            return truth, [facts.parent / one["images"] / image["file_name"] for image in truth["images"]]
    raise SystemExit(f"{store}: not the images that {bundle.root} was measured on; run `make run` first")


def ratio(found: dict[str, Any], one: str, other: str) -> float:
    """How many times as fast one side is as the other: the median of the rounds' ratios."""
    pairs = zip(found["rates"][one], found["rates"][other], strict=True)
    return round(float(np.median([a / b for a, b in pairs])), 3)


def report(title: str, found: dict[str, Any]) -> None:
    """Print a table."""
    print(f"\n{title}")
    for name, rates in found["rates"].items():
        print(f"  {name:10} {np.median(rates):8.1f} images/s   {ratio(found, name, 'engine'):.3f} of the engine alone")
    for kind in found["p99"]:
        print(f"  {kind:10} p50 {1000 * found['p50'][kind]:7.2f} ms   p99 {1000 * found['p99'][kind]:7.2f} ms")


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=BUNDLE)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.6, help="duration of each side in each round")
    args = parser.parse_args()
    if missing := [rival for rival in RIVALS if importlib.util.find_spec(rival) is None]:
        parser.error(f"{', '.join(missing)}: not installed; run: pip install -r benchmarks/serving/requirements.txt")
    os.sched_setaffinity(0, {CLIENT_CORE})
    bundle = Bundle.load(args.bundle)
    truth, files = validation(bundle)
    contents = photos(files)
    with TemporaryDirectory() as scratch:
        large = compare(enlarged(bundle, Path(scratch) / "large"), ("ours", *RIVALS), contents, args.rounds, args.seconds)
    report(f"student at {SIZE} px", large)
    small = compare(bundle.root, ("ours",), contents, args.rounds, args.seconds)
    report("the default student", small)
    difference = map_difference(bundle, truth, files)
    print(f"\nmAP of {len(files)} images through the server differs from validate's by {difference:.1e}")
    figures = {
        "vs_engine": ratio(large, "ours", "engine"),
        "vs_litserve": ratio(large, "ours", "litserve"),
        "vs_fastapi": ratio(large, "ours", "fastapi"),
        "p99_ratio": round(large["p99"]["even"] / large["p99"]["engine"], 3),
        "p99_ratio_poisson": round(large["p99"]["poisson"] / large["p99"]["engine"], 3),
        "engine_p50_ms": round(1000 * large["p50"]["engine"], 2),
        "vs_engine_default": ratio(small, "ours", "engine"),
        "map_difference": difference,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
