"""The runtime contract; every other file in this folder is one runtime, and its file name is its name in pipeline.yaml.

A file defines

- `compile(typed: Path, heads: Heads, out: Path, *, <options>) -> Compiled`, writing one file into `out`. `typed` is the ONNX graph in
  the target's precision, which its tensors' types state. The keyword-only parameters are the target's options in YAML.
- `INTEGERS: Recipe`, the kind of int8 that it requires; a runtime without it has no int8
- `RAW_ONLY: bool`, only if True: it computes raw outputs and no graph that decodes boxes
- `DELIVERY: Delivery`, only if it differs from the defaults: what an engine needs on the machines of others
- `fingerprint(options) -> dict[str, str]`, only if engines can be built for a device that this machine lacks: that device's `identity`
- `on_site(options) -> Mapping[str, Any]`, only in that case: the options that build an engine for this machine's device
- `open(file: Path, *, threads: int | None = None, options: Mapping[str, Any] = DEFAULTS) -> Session`; with None, the runtime chooses
  the number of threads; `options` are the target's, as passed to compile
- `identity() -> dict[str, str]`: versions and device, fast, without loading the runtime; an input to an engine's hash
- `foreign(fingerprint: Mapping[str, str]) -> str | None`: why an engine with this fingerprint (`identity` on the machine that built it)
  cannot run on this machine; None if it can, or if engines run on any machine
- `why_not() -> str | None`: why engines cannot run here, with the pip command if a package is missing; None if they can
- `why_never(options) -> str | None`, only if not all options go together: why no engine with these can be built on any machine; asked when
  a configuration is read
- `why_not_build(options) -> str | None`, only if building needs something else than running: why no engine with these options can be
  built here. It is asked before the graph is converted, and compile is called only if the answer is None.

compile raises BuildError if the graph cannot be built. If boxes are decoded on the host, the graph's outputs are `heads.outputs`, and
the session answers to `heads` instead of `infer`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from deploy import plugins
from deploy.errors import ArtifactError
from deploy.machine.peak import Peak
from deploy.precision import Batch, Precision


@dataclass(frozen=True)
class TritonBackend:
    """How NVIDIA Triton runs an engine: the backend, its older name as a platform, and the file name it expects."""

    name: str
    platform: str
    file: str


ONNX_BACKEND = TritonBackend("onnxruntime", "onnxruntime_onnx", "model.onnx")


@dataclass(frozen=True)
class Delivery:
    """What an engine needs on the machines of others.

    `extra` is an extra of edgedistill, in addition to serve and build; `gpu_packages` are added on a GPU. Without its own `triton`
    backend, Triton runs the graph that the engine was built from.
    """

    extra: str | None = None
    devices: tuple[Literal["cpu", "gpu"], ...] = ("cpu", "gpu")
    gpu_packages: tuple[str, ...] = ()
    triton: TritonBackend | None = None


@dataclass(frozen=True)
class Compiled:
    """The engine's file, and evidence of its precision, such as layer counts by type."""

    file: Path
    proof: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """A graph's outputs, owned by the caller; unused entries have score 0.

    boxes [B, K, 4] float32 in px of the network input; scores [B, K] float32; labels [B, K] int64; converged [B] bool.
    masks [B, K, h, w] float32 probabilities in the contract's mask frame; None for detectors without masks.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    converged: NDArray[np.bool_]
    masks: NDArray[np.float32] | None = None


def checked(raw: Raw, num_images: int) -> Raw:
    """The outputs of a batch, if they have the types and shapes of `Raw`: a graph that was changed may answer anything.

    Raises:
        ArtifactError: they have not; the message names the first.
    """
    most = raw.scores.shape[1] if getattr(raw.scores, "ndim", 0) == 2 else 0
    expected = {"boxes": ("f", (num_images, most, 4)), "scores": ("f", (num_images, most)), "labels": ("iu", (num_images, most))}
    for name, (kinds, shape) in {**expected, "converged": ("b", (num_images,))}.items():
        value = getattr(raw, name)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.shape != shape:
            found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise ArtifactError(f"the engine's {name} are {found}, expected {shape}; build it again")
    if raw.masks is not None and (raw.masks.dtype.kind != "f" or raw.masks.ndim != 4 or raw.masks.shape[:2] != (num_images, most)):
        raise ArtifactError(f"the engine's masks are {raw.masks.dtype} {raw.masks.shape}; build it again")
    return raw


HOST_OUTPUT = "class_logits"
"""An output of every engine whose boxes are decoded on the host."""


def refuse_raw(outputs: Collection[str]) -> None:
    """Refuse to ask an engine for boxes that it does not decode.

    Raises:
        ArtifactError: it has no such outputs.
    """
    if not outputs:
        raise ArtifactError("the engine's boxes are decoded on the host, but its contract does not say how; build it again")


DEFAULTS: Mapping[str, Any] = MappingProxyType({})
"""The options of a target that has none."""
PACKAGE = "deploy.runtimes"
AUTO = "auto"
"""A target's runtime if it should get the fastest one of the machine."""


def delivery(name: str) -> Delivery:
    """A runtime's own delivery, or the defaults."""
    return getattr(plugins.load("deploy.runtimes", name), "DELIVERY", Delivery())


def wanted(runtime: str) -> tuple[str, ...]:
    """The runtimes that a target may get: its own; for `auto` all, first those that need no extra of edgedistill."""
    if runtime != AUTO:
        return (runtime,)
    return tuple(sorted(plugins.names(PACKAGE), key=lambda name: (delivery(name).extra is not None, name)))


def fill(value: Any, own: tuple[str, ...]) -> dict[str, Any]:
    """Check a target as written in YAML, and fill in its runtime's defaults; with runtime `auto`, see `options_of`.

    Args:
        own: the target's keys that are not options of runtimes.

    Raises:
        ValueError: see plugins.fill; options that do not go together; with runtime `auto`, an option that no runtime has.
    """
    runtime = value.get("runtime") if isinstance(value, Mapping) else None
    names = plugins.names(PACKAGE)
    if isinstance(runtime, str) and runtime not in (AUTO, *names):
        raise ValueError(f"no '{runtime}' in {PACKAGE}{plugins.suggest(runtime, (AUTO, *names))}; choose from {', '.join((AUTO, *names))}")
    if runtime != AUTO:
        return _filled(value, own)
    options = {key: one for key, one in value.items() if key not in own}
    known = {option for name in names for option in plugins.schema(PACKAGE, name, "compile").model_fields}
    for option in options:
        if option not in known:
            allowed = sorted({*known, *own} - {"runtime"})
            raise ValueError(f"no runtime has an option '{option}'{plugins.suggest(option, allowed)}; available: {', '.join(allowed)}")
    for name in names:
        options_of(name, options)
    return dict(value)


def _filled(value: Any, own: tuple[str, ...]) -> dict[str, Any]:
    found = plugins.fill(PACKAGE, value, own=own, key="runtime", function="compile")
    runtime = plugins.load(PACKAGE, found["runtime"])
    problem = runtime.why_never(found) if hasattr(runtime, "why_never") else None
    if problem is not None:
        raise ValueError(f"{found['runtime']}: {problem}")
    return found


def options_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a runtime has of those given with runtime `auto`; defaults are filled in, for this machine's device.

    Raises:
        ValueError: a value is not allowed.
    """
    known = plugins.schema(PACKAGE, name, "compile").model_fields
    own = {key: value for key, value in given.items() if key in known}
    filled = _filled({"runtime": name, **own}, ())
    return {key: value for key, value in on_site(name, filled).items() if key != "runtime"}


def is_raw_only(name: str) -> bool:
    """Whether a runtime computes raw outputs only, so that boxes must be decoded on the host."""
    return name != AUTO and getattr(plugins.load(PACKAGE, name), "RAW_ONLY", False) is True


def fingerprint(name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprint of the device that a runtime's engine with these options is for."""
    runtime = plugins.load("deploy.runtimes", name)
    found: dict[str, str] = runtime.fingerprint(options) if hasattr(runtime, "fingerprint") else runtime.identity()
    return found


def why_not_build(name: str, options: Mapping[str, Any]) -> str | None:
    """Why a runtime cannot build an engine with these options here; None if it can."""
    runtime = plugins.load("deploy.runtimes", name)
    found: str | None = runtime.why_not_build(options) if hasattr(runtime, "why_not_build") else runtime.why_not()
    return found


def on_site(name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options, changed to this machine's device if they name a different one; `auto` never builds for a different one."""
    if name == AUTO:
        return options
    runtime = plugins.load("deploy.runtimes", name)
    found: Mapping[str, Any] = runtime.on_site(options) if hasattr(runtime, "on_site") else options
    return found


class Session(ABC):
    """An open engine; a context manager, to give device memory a scope."""

    @abstractmethod
    def infer(self, images: Batch) -> Raw:
        """Run on images [B, 3, H, W] float32."""

    def heads(self, images: Batch, names: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """The raw outputs of these names, for an engine whose boxes are decoded on the host.

        Raises:
            ArtifactError: the engine has none.
        """
        raise ArtifactError("the engine decodes boxes itself, but its contract has them decoded on the host; build it again")

    @abstractmethod
    def close(self) -> None:
        """Free the device."""

    def proof(self) -> Mapping[str, Any]:
        """Evidence of precision from the open engine; empty if its file has all of it."""
        return {}

    def peak(self, precision: Precision) -> Peak | None:
        """Peak rates of the device; None if unknown."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
