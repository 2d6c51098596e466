"""The runtime contract; every other file of this folder is one runtime, its file name the name in pipeline.yaml.

A file defines

- `compile(onnx: Path, out: Path, *, precision, calibration, heads, quantization, <options>) -> Compiled`, writing one file into
  `out`. Its other keyword-only parameters are the target's options in YAML.
- `INTEGERS: Recipe`, how it wants the integers of int8
- `DELIVERY: Delivery`, where what its defaults say is not so: what an engine needs where others run it
- `fingerprint(options) -> dict[str, str]`, where engines can be for another device than this machine's: `identity` of that one
- `on_site(options) -> Mapping[str, Any]`, likewise: the options with which an engine is for this machine's
- `open(file: Path, *, threads: int | None = None, options: Mapping[str, Any] = DEFAULTS) -> Session`; null threads leave the number to
  the runtime, `options` are the target's, as compile got them
- `identity() -> dict[str, str]`: versions and device, quick, without loading the runtime; part of what an engine's hash covers.
- `foreign(fingerprint: Mapping[str, str]) -> str | None`: why an engine of this fingerprint, `identity` on the machine that built it,
  is not for this machine; None where it is, or where engines are for any
- `why_not() -> str | None`: why engines cannot run here, with the pip line where a package is missing; None where they can.

compile raises RuntimeUnavailable where it cannot build here and BuildError where the graph cannot be built.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from deploy import plugins
from deploy.machine.peak import Peak
from deploy.precision import Batch, Precision


@dataclass(frozen=True)
class TritonBackend:
    """What in NVIDIA Triton runs an engine: the backend, its older name as a platform, and what it calls the file."""

    name: str
    platform: str
    file: str


ONNX_BACKEND = TritonBackend("onnxruntime", "onnxruntime_onnx", "model.onnx")


@dataclass(frozen=True)
class Delivery:
    """What an engine needs where others run it.

    `extra` is edgedistill's, beside serve and build; `gpu_packages` come on top of it on a GPU. Without a `triton` backend of its
    own, Triton runs the graph that the engine was built from.
    """

    extra: str | None = None
    devices: tuple[Literal["cpu", "gpu"], ...] = ("cpu", "gpu")
    gpu_packages: tuple[str, ...] = ()
    triton: TritonBackend | None = None


@dataclass(frozen=True)
class Compiled:
    """The engine's file, and what shows its precision (layer counts by type, say).

    `typed` is the ONNX graph in the engine's precision, where that is another file.
    """

    file: Path
    proof: Mapping[str, Any] = field(default_factory=dict)
    typed: Path | None = None


@dataclass(frozen=True)
class Raw:
    """A graph's answer, owned by the caller; padded with score 0.

    boxes [B, K, 4] float32 in px of the network input; scores [B, K] float32; labels [B, K] int64; converged [B] bool.
    masks [B, K, h, w] float32 probabilities in the contract's mask frame, None for detectors without.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    converged: NDArray[np.bool_]
    masks: NDArray[np.float32] | None = None


DEFAULTS: Mapping[str, Any] = MappingProxyType({})
"""A target's options where it has none."""

NOT_OPTIONS = ("precision", "calibration", "heads", "quantization")
"""The keyword-only parameters of every `compile` that are not options of the target."""


def delivery(name: str) -> Delivery:
    """A runtime's own, or the defaults."""
    return getattr(plugins.load("deploy.runtimes", name), "DELIVERY", Delivery())


def fingerprint(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Of the device that a runtime's engine with these options is for."""
    runtime = plugins.load("deploy.runtimes", name)
    found: dict[str, str] = runtime.fingerprint(options) if hasattr(runtime, "fingerprint") else runtime.identity()
    return found


def on_site(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options, but for this machine's device where they name another one."""
    runtime = plugins.load("deploy.runtimes", name)
    found: Mapping[str, Any] = runtime.on_site(options) if hasattr(runtime, "on_site") else options
    return found


class Session(ABC):
    """An open engine; a context manager, so that device memory has a scope."""

    @abstractmethod
    def infer(self, images: Batch) -> Raw:
        """Run on images [B, 3, H, W] float32."""

    @abstractmethod
    def close(self) -> None:
        """Free the device."""

    def proof(self) -> Mapping[str, Any]:
        """What the open engine says of its own precision; nothing where its file says it all."""
        return {}

    def peak(self, precision: Precision) -> Peak | None:
        """What the device can do at most; None where that is not known."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
