"""A target's requirements for its engine, and the inputs that engines are built from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deploy.contract import Heads, ModelContract
from deploy.engines.int8_training import Int8Training
from deploy.latency.measure import Image
from deploy.precision import Calibration, Precision, RangeMethod
from deploy.runtimes import AUTO, options_of, wanted

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class BuildRequest:
    """`options` are the runtime's own, `max_map_drop` is the largest allowed drop of mAP from fp32, null for any.

    With runtime `auto`, `options` are those of any runtime. `threads` is the number of threads with which engines are timed for a
    choice, null for the runtime's own number.
    """

    runtime: str
    precision: Precision | Literal["auto"]
    options: Mapping[str, Any] = field(default_factory=dict)
    ranges: RangeMethod = "min_max"
    max_map_drop: float | None = None
    threads: int | None = None

    @property
    def chooses(self) -> bool:
        """Whether several engines are built, measured and compared, and the fastest is taken."""
        return AUTO in {self.runtime, self.precision}

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions to build, the simplest first."""
        return PRECISIONS if self.precision == "auto" else (self.precision,)

    def per_runtime(self) -> "tuple[BuildRequest, ...]":
        """The same request to each runtime that the target may get, the preferred one first."""
        if self.runtime != AUTO:
            return (self,)
        return tuple(replace(self, runtime=name, options=options_of(name, self.options)) for name in wanted(AUTO))


@dataclass(frozen=True)
class GraphSource:
    """The ONNX graph with its facts, images to calibrate int8 with, and how to get decoded images to time engines on.

    `trained`: the ranges that the graph was trained with, if it was trained for int8; no image is read for these. `reference` is the
    graph whose mAP in fp32 a limit on the drop is measured from; null for the graph itself.
    """

    onnx: Path
    heads: Heads
    contract: ModelContract
    calibration: Calibration
    timed_on: Callable[[], Sequence[Image]] = tuple
    trained: Int8Training | None = None
    reference: Path | None = None
