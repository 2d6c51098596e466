"""A target's requirements for its engine, and the inputs that engines are built from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deploy import plugins
from deploy.contract import Heads, ModelContract
from deploy.precision import PLAIN, Calibration, Precision, Quantization
from deploy.runtimes import Compiled


@dataclass(frozen=True)
class Order:
    """`options` are the runtime's own, `max_map_drop` is the largest allowed drop of mAP from fp32, null for any.

    `threads` is the number of threads with which engines are timed for a choice, null for the runtime's own number.
    """

    runtime: str
    precision: Precision | Literal["auto"]
    options: Mapping[str, Any] = field(default_factory=dict)
    quantization: Quantization = PLAIN
    max_map_drop: float | None = None
    threads: int | None = None


@dataclass(frozen=True)
class GraphSource:
    """The ONNX graph with its facts, and images to calibrate int8 with."""

    onnx: Path
    heads: Heads
    contract: ModelContract
    calibration: Calibration

    def compile(self, order: Order, out: Path, precision: Precision, quantization: Quantization) -> Compiled:
        """Compile an engine of this precision with the order's runtime, into `out`."""
        compiled: Compiled = plugins.load("deploy.runtimes", order.runtime).compile(
            self.onnx,
            out,
            precision=precision,
            calibration=self.calibration,
            heads=self.heads,
            quantization=quantization,
            **order.options,
        )
        return compiled
