"""Good, bad, huge, truncated and random requests to a server, and many of them in parts."""

import asyncio
import json
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from serving_samples import Server, encoded, load, once, request

IMAGE = encoded({(0, 1): 0, (2, 3): 2})


def fuzz(random: np.random.Generator) -> Callable[[int], bytes]:
    """Good, bad, huge, truncated and random requests."""
    tensor = np.zeros((1, 3, 64, 64), np.float32)
    head = json.dumps(
        {"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 64, 64], "parameters": {"binary_data_size": tensor.nbytes}}]}
    ).encode()
    infer = "/v2/models/cells-here/infer"
    length = f"inference-header-content-length: {len(head)}\r\n"
    bomb = struct.pack(">II", 60_000, 60_000)
    png = encoded({}, "PNG")

    def noise(count: int) -> bytes:
        return random.integers(0, 256, count, dtype=np.uint8).tobytes()

    def flipped() -> bytes:
        content = bytearray(IMAGE)
        for position in random.integers(0, len(content), 5):
            content[position] = int(random.integers(256))
        return bytes(content)

    kinds: list[Callable[[], bytes]] = [
        lambda: request(IMAGE),
        lambda: request(head + tensor.tobytes(), infer, headers=length),
        lambda: request(head + noise(tensor.nbytes), infer, headers=length),
        lambda: request(head + noise(100), infer, headers=length),
        lambda: request(IMAGE[: int(random.integers(len(IMAGE)))]),
        lambda: request(flipped()),
        lambda: request(png[:16] + bomb + png[24:]),
        lambda: request(noise(int(random.integers(2000)))),
        lambda: request(noise(60_000)),
        lambda: request(noise(300), headers="content-type: multipart/form-data; boundary=x\r\n"),
        lambda: request(b"--x\r\n" + noise(300) + b"\r\n--x--\r\n", headers="content-type: multipart/form-data; boundary=x\r\n"),
        lambda: request(noise(300), headers="content-encoding: gzip\r\n"),
        lambda: request(
            json.dumps({"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 64, 64], "data": [0]}]}).encode(), infer
        ),
        lambda: request(b"[" * 5000, infer),
        lambda: request(noise(300), infer),
        lambda: request(IMAGE, "/v1/detect?min_score=" + "9" * 50),
        lambda: request(b"", f"/{noise(4).hex()}", "GET"),
        lambda: request(b"", "/v1/detect", "DELETE"),
        lambda: request(b"", "/metrics", "GET"),
        lambda: b"GET " + noise(40).replace(b"\n", b"").replace(b"\r", b"") + b"\r\n\r\n",
    ]
    return lambda number: kinds[number % len(kinds)]()


DOCUMENTED = {200, 400, 404, 405, 413, 415}


class Soak:
    """Rubbish for a server in parts, the counts of which are kept in a file, so that a run that was ended goes on in the next one.

    A server lives as long as a run. Its first part warms it up; memory and descriptors are measured after each.
    """

    def __init__(self, file: Path, total: int, part: int) -> None:
        self._file = file
        self._total = total
        self._part = part
        self.found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"statuses": {}, "servers": []}

    @property
    def done(self) -> int:
        """Requests so far, in all runs."""
        return sum(self.found["statuses"].values())

    def run(self, bundle: Path, seconds: float = float("inf")) -> None:
        """Ask until it is enough, or for about so long, but at least a part.

        Raises:
            AssertionError: the server has ended, or an answer is not documented.
        """
        with Server(bundle, "max_body_mib=0.055", "queue_size=32") as server:
            own: dict[str, list[int]] = {"memory_kib": [], "descriptors": []}
            self.found["servers"].append(own)
            deadline = time.monotonic() + seconds
            while self.done < self._total and not (own["descriptors"] and time.monotonic() > deadline):
                count = min(self._part, self._total - self.done)
                counts = Counter(asyncio.run(_ask(server.port, count, seed=self.done)))
                assert server.process.poll() is None, server.last_words
                assert set(counts) <= DOCUMENTED, counts
                own["memory_kib"].append(server.memory_kib())
                own["descriptors"].append(len([*Path(f"/proc/{server.process.pid}/fd").iterdir()]))
                self._keep(counts)
            assert asyncio.run(once(server.port, request(IMAGE))).status == 200

    def _keep(self, counts: Mapping[int, int]) -> None:
        known = self.found["statuses"]
        for status, count in counts.items():
            known[str(status)] = known.get(str(status), 0) + count
        scratch = self._file.with_suffix(".partial")
        scratch.write_text(json.dumps(self.found, indent=1))
        scratch.replace(self._file)


async def _ask(port: int, count: int, seed: int) -> list[int]:
    """The status codes of so many answers, and as many as there are connections at the end."""
    statuses: list[int] = []
    await load(
        port,
        4,
        fuzz(np.random.default_rng(seed)),
        lambda _: len(statuses) < count,
        heard=lambda reply: statuses.append(reply.status),
        seconds=3600,
    )
    return statuses
