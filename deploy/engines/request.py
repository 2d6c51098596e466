"""A target's requirements for its engine, and the inputs that engines are built from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deploy.contract import Heads, ModelContract
from deploy.precision import Calibration, Precision, RangeMethod


@dataclass(frozen=True)
class BuildRequest:
    """`options` are the runtime's own, `max_map_drop` is the largest allowed drop of mAP from fp32, null for any.

    `threads` is the number of threads with which engines are timed for a choice, null for the runtime's own number.
    """

    runtime: str
    precision: Precision | Literal["auto"]
    options: Mapping[str, Any] = field(default_factory=dict)
    ranges: RangeMethod = "min_max"
    max_map_drop: float | None = None
    threads: int | None = None


@dataclass(frozen=True)
class GraphSource:
    """The ONNX graph with its facts, and images to calibrate int8 with."""

    onnx: Path
    heads: Heads
    contract: ModelContract
    calibration: Calibration
