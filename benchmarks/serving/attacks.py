"""What strangers can do to `edgedistill serve`: health, good clients and memory during each attack, next to an idle twin.

Run `make run` first. Two servers of the same bundle run on the first core; attackers, probes and good clients on the second. Every 20 ms
a new connection asks each server for its health; three good clients, from another address, send a photo ten times per second. Reported
are the worst answer of both, in milliseconds, and the peak of resident memory of the server with its decoding processes.
Usage: python benchmarks/serving/attacks.py [BUNDLE] [--seconds S] [--only NAME ...]
"""

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "samples"))  # for the server, the client and the images

import hostile_samples  # noqa: E402
from serving_samples import Server, load, once, request  # noqa: E402

BUNDLE = ROOT / "runs" / "digits" / "bundle" / "cpu-fp32"
SERVER_CORE, CLIENT_CORE = 0, 1
GOOD_ADDRESS = "127.0.0.2"
PROGRAM = ("taskset", "-c", SERVER_CORE, sys.executable, "-c", "import sys; from pipeline.cli import main; sys.exit(main())")
DEADLINE = 10.0
MIB = 1 << 20
Attack = Callable[[int, int, float], Coroutine[Any, Any, None]]


def repeat(clients: int, *bodies: Callable[[], bytes]) -> Attack:
    """Clients that send these requests in rotation, the next as soon as the last is answered."""

    async def attack(port: int, grpc_port: int, seconds: float) -> None:
        made, until = [body() for body in bodies], time.monotonic() + seconds
        await load(port, clients, lambda number: made[number % len(made)], lambda _: time.monotonic() < until)

    return attack


def hold(connections: int, *pieces: bytes, every: float = 1.0) -> Attack:
    """Connections that send the first pieces, then the last again and again; opened again when the server ends them."""

    async def attack(port: int, grpc_port: int, seconds: float) -> None:
        until = time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < until:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    for piece in pieces[:-1]:
                        writer.write(piece)
                        await asyncio.sleep(0.1)
                    while time.monotonic() < until and not writer.is_closing():
                        writer.write(pieces[-1])
                        await writer.drain()
                        await asyncio.sleep(every)
                    writer.close()

        await asyncio.gather(*(one() for _ in range(connections)))

    return attack


async def hang_up(port: int, grpc_port: int, seconds: float) -> None:
    """Clients that send a large image and go away at once."""
    body, until = request(hostile_samples.png(6272, 8, 6)), time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(body)
                await writer.drain()
                await asyncio.sleep(0.05)
                writer.close()

    await asyncio.gather(*(one() for _ in range(16)))


def grpc_calls(name: str) -> Attack:
    """Calls over gRPC that send no message."""

    async def attack(port: int, grpc_port: int, seconds: float) -> None:
        import grpc

        never = threading.Event()

        def nothing() -> Iterator[bytes]:
            never.wait(seconds)
            yield from ()

        with contextlib.ExitStack() as stack:
            for _ in range(8):
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{grpc_port}", options))
                call = channel.stream_stream(f"/inference.GRPCInferenceService/{name}", None, None)
                for _ in range(100):
                    call(nothing())
            await asyncio.sleep(seconds)
            never.set()

    return attack


def packed() -> bytes:
    """A small image and zeros, in few bytes."""
    content = gzip.compress(hostile_samples.saved("JPEG") + bytes(31 * MIB), 9)
    return request(content, headers="content-encoding: gzip\r\n")


def form(content: bytes) -> bytes:
    """A form of sixteen images."""
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="x"\r\n\r\n' + content + b"\r\n"
    return request(part * 16 + b"--b--\r\n", headers="content-type: multipart/form-data; boundary=b\r\n")


def numbers() -> bytes:
    """A tensor as JSON, of the wrong size."""
    data = b'{"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 64, 64], "data": [' + b"0," * 300_000 + b"0]}]}"
    return request(data, "/v2/models/digits/infer")


def of_seed(seed: int) -> bytes:
    """A request with an image of hostile_samples."""
    _, content, headers = hostile_samples.hostile(seed)
    return request(content, headers=headers)


LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
JPEG = hostile_samples.saved("JPEG")
LARGE = (("PNG", {}), ("JPEG", {"quality": 1}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"}))
ATTACKS: dict[str, Attack] = {
    "connections that do not end": hold(1100, LIVE, b"\r\n"),
    "bodies that do not come": hold(500, POST, b"x"),
    "headers that do not end": hold(8, b"GET / HTTP/1.1\r\nx: ", b"a" * (1 << 16), every=0.0),
    "packed bodies": repeat(60, packed),
    "filled images": repeat(4, lambda: request(JPEG[:2] + b"\xff" * (31 * MIB) + JPEG[2:]), lambda: of_seed(12), lambda: of_seed(24)),
    "large images": repeat(40, *(lambda one=one: request(hostile_samples.saved(one[0], side=6272, **one[1])) for one in LARGE)),
    "JPEG 2000": repeat(8, lambda: of_seed(list(hostile_samples.KINDS).index("jpeg 2000"))),
    "forms of large images": repeat(8, lambda: form(hostile_samples.png(6272, 16, 0))),
    "base64": repeat(
        8, lambda: request(b'{"image": "' + b"A" * (30 * MIB) + b'"}'), lambda: request(b"a" * 64 + b"\n" * (30 * MIB) + b"!")
    ),
    "numbers as JSON": repeat(8, numbers),
    "every kind": repeat(64, *(lambda seed=seed: of_seed(seed) for seed in range(len(hostile_samples.KINDS)))),
    "clients that hang up": hang_up,
    "overload": repeat(640, lambda: request(JPEG)),
    "streams over gRPC": grpc_calls("ModelStreamInfer"),
    "calls over gRPC": grpc_calls("ModelInfer"),
    "unread log": repeat(32, lambda: request(JPEG, headers=f"x-request-id: {'a' * 100}\r\n")),
}


def health(port: int) -> float:
    """Seconds until a new connection has its answer; infinite if it has a wrong one or none."""
    started = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/v2/health/live")
        right = connection.getresponse().status == 200
    except OSError:
        right = False
    finally:
        connection.close()
    return time.perf_counter() - started if right else float("inf")


def ask(port: int, content: bytes, until: Callable[[], bool], answers: list[tuple[int, float]]) -> None:
    """A good client: ten requests per second, on a connection that it keeps."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30, source_address=(GOOD_ADDRESS, 0))
    while not until():
        started = time.perf_counter()
        try:
            connection.request("POST", "/v1/detect", content)
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except OSError:
            status = 0
            connection.close()
        answers.append((status, time.perf_counter() - started))
        time.sleep(0.1)
    connection.close()


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    total = 0.0
    with contextlib.suppress(OSError, StopIteration):  # it has just ended
        text = Path(f"/proc/{pid}/status").read_text()
        total = int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) / 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(memory_mib(int(child)) for child in (task / "children").read_text().split())
    return total


def measure(attacked: Server, twin: Server, name: str, content: bytes, seconds: float) -> dict[str, Any]:
    """Run an attack, and what is seen of it."""
    grpc_port = next(line["address"].rpartition(":")[2] for line in attacked.said("listening") if line["address"].startswith("grpc"))
    command = [sys.executable, __file__, "--attack", name, "--ports", str(attacked.port), grpc_port, "--seconds", str(seconds)]
    attacked.deaf = name == "unread log"
    seen: dict[int, list[float]] = {attacked.port: [], twin.port: []}
    answers: list[tuple[int, float]] = []
    peak = 0.0
    with subprocess.Popen(command) as process:  # noqa: S603 - no input from outside
        good = [threading.Thread(target=ask, args=(attacked.port, content, lambda: process.poll() is not None, answers)) for _ in range(3)]
        for thread in good:
            thread.start()
        for number in count():
            for port in random.sample(list(seen), 2):
                seen[port].append(health(port))
            if number % 5 == 0:
                peak = max(peak, memory_mib(attacked.process.pid))
            if process.poll() is not None:
                break
            time.sleep(0.02)
        for thread in good:
            thread.join()
    worst = {port: max(values) * 1000 for port, values in seen.items()}
    return {
        "health_ms": round(worst[attacked.port], 1),
        "twin_ms": round(worst[twin.port], 1),
        "ratio": round(worst[attacked.port] / worst[twin.port], 1),
        "good": len(answers),
        "good_lost": sum(status != 200 or taken > DEADLINE for status, taken in answers),
        "good_ms": round(1000 * max(taken for _, taken in answers)),
        "memory_mib": round(peak),
    }


def main() -> None:
    """The command line; the module's docstring describes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=BUNDLE)
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of each attack")
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), metavar="NAME", default=list(ATTACKS), help="these attacks")
    parser.add_argument("--attack", choices=list(ATTACKS), help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    if args.attack:
        asyncio.run(ATTACKS[args.attack](*args.ports, args.seconds))
        return
    report(args.bundle, args.only, args.seconds)


def report(bundle: Path, names: Sequence[str], seconds: float) -> None:
    """Run attacks, each on a new server, and print a table and the figures."""
    settings = ("grpc_port=0", "drain_seconds=0", f"timeout_ms={1000 * DEADLINE:g}")
    content, found = hostile_samples.saved("JPEG", side=512), {}
    with Server(bundle, *settings, program=PROGRAM, allow_ungated=True) as twin:
        for name in names:
            with Server(bundle, *settings, program=PROGRAM, allow_ungated=True) as attacked:
                assert asyncio.run(once(attacked.port, request(content))).status == 200
                found[name] = measure(attacked, twin, name, content, seconds)
                assert attacked.process.poll() is None, f"{name}: the server has ended"
            print(f"{name:28} {found[name]}", flush=True)
    figures = {key: max(one[key] for one in found.values()) for key in ("health_ms", "ratio", "good_lost", "good_ms", "memory_mib")}
    print(json.dumps({**figures, "attacks": found}))


if __name__ == "__main__":
    main()
