"""Targets that this machine can build and measure, and the gates that judge them."""

from collections.abc import Iterator, Sequence
from typing import Any

from deploy import plugins

INT8_DROP = 0.01
ROOM = 10.0
"""How many times the estimated latency the limit is: on a machine with three times as many jobs as cores, medians rose fivefold."""

_ROUND = (20, 30, 50, 80, 100, 150, 200, 300, 500, 800, 1000, 1500, 2000, 3000, 5000, 10_000)


def targets() -> list[dict[str, Any]]:
    """One per runtime and useful precision."""
    found: list[dict[str, Any]] = [
        {"name": "ort-fp32", "runtime": "ort", "precision": "fp32"},
        {"name": "ort-int8", "runtime": "ort", "precision": "int8", "max_map_drop": INT8_DROP},
    ]
    if _ready("openvino"):
        found.append({"name": "openvino-int8", "runtime": "openvino", "precision": "int8", "max_map_drop": INT8_DROP})
    if _ready("trt"):
        found.append({"name": "tensorrt-fp16", "runtime": "trt", "precision": "fp16"})
    return found


def gates(names: Sequence[str], estimated_ms: float, latency: float | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each gate with its reason; `latency` is the limit in ms that was asked for."""
    first = names[0]
    yield (
        "The engine computes what the student computed.",
        {"name": "lossless", "metric": "student_drop_map", "max": 0.002, "target": first},
    )
    for name in names[1:]:
        drop = 2 * INT8_DROP if name.endswith("int8") else 0.005
        yield "No more is lost in lower precision than allowed.", {"name": name, "metric": "student_drop_map", "max": drop, "target": name}
    behind = {"max_drop": "50%", "versus": "teacher", "on_noise": "pass"}
    reason = "Fails only if the images prove that it is far behind its teacher."
    yield reason, {"name": "near-teacher", "metric": "map", **behind, "target": first}
    if latency is None:
        percentile = "p50"  # other processes move it less than p99
        reason = f"Estimated at {estimated_ms:.1f} ms, with room for a busy machine; lower it to what you need."
        limit: float = next((one for one in _ROUND if one >= ROOM * estimated_ms), _ROUND[-1])
    else:
        percentile = "p99"
        reason, limit = f"As asked for; estimated at {estimated_ms:.1f} ms.", latency
    yield reason, {"name": "speed", "metric": f"latency_end_to_end_{percentile}_ms", "max": limit, "target": first}


def _ready(runtime: str) -> bool:
    return plugins.load("deploy.runtimes", runtime).why_not() is None
