"""TensorRT 10.13 and later: builds and runs on the machine that has the GPU."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy import machine
from deploy.contract import Heads
from deploy.machine import packages
from deploy.runtimes import DEFAULTS, Compiled, Delivery, Session, TritonBackend, nvidia
from deploy.runtimes.nvidia import session
from deploy.runtimes.nvidia.options import BestBatch, CudaGraph, MaxBatch, Tf32, WorkspaceMib

DELIVERY = Delivery("tensorrt", ("gpu",), triton=TritonBackend("tensorrt", "tensorrt_plan", "model.plan"))
INTEGERS = nvidia.INTEGERS


def compile(
    typed: Path,
    heads: Heads,
    out: Path,
    *,
    max_batch: MaxBatch = 8,
    best_batch: BestBatch = 1,
    workspace_mib: WorkspaceMib = None,
    tf32: Tf32 = False,
    timing_cache: str | None = None,
    cuda_graph: CudaGraph = False,
) -> Compiled:
    """Write out/engine.plan for this machine's GPU.

    Args:
        timing_cache: file in which TensorRT keeps its measurements, for faster builds.

    Raises:
        BuildError: the graph cannot be built.
    """
    # Imported late: identity() and why_not() work without TensorRT, and only building needs the onnx package.
    import tensorrt

    from deploy.runtimes.nvidia.engine import Settings, build_plan

    settings = Settings(max_batch, best_batch, workspace_mib, tf32, timing_cache)
    return build_plan(tensorrt, typed, heads, out, settings)


def open(file: Path, *, threads: int | None = None, options: Mapping[str, Any] = DEFAULTS) -> Session:
    """Open an engine. `threads` is ignored, because the CPU computes nothing here; of the options, only `cuda_graph` is used.

    Raises:
        RuntimeUnavailable: TensorRT or the GPU is not available.
        ArtifactError: the file is not an engine for this TensorRT and GPU.
    """
    return session.open_engine("tensorrt", "tensorrt", file, cuda_graph=bool(options.get("cuda_graph")))


def identity() -> dict[str, str]:
    """TensorRT's version, that of NVIDIA's bindings if they are installed, and the GPU."""
    installed = packages.first("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
    return {"tensorrt": installed, **packages.present(cuda_bindings="cuda-bindings"), **machine.gpu()}


def foreign(fingerprint: Mapping[str, str]) -> str | None:
    """See deploy.runtimes.nvidia.session.foreign."""
    return session.foreign(fingerprint, identity(), ("tensorrt", "compute_capability", "gpu"))


def why_never(options: Mapping[str, Any]) -> str | None:
    """See deploy.runtimes.nvidia.why_never."""
    return nvidia.why_never(options)


def why_not() -> str | None:
    """None if TensorRT and a GPU are available."""
    return session.why_not("tensorrt", "tensorrt")
