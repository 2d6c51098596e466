"""TensorRT for RTX: can also build for a GPU that this machine lacks; runs on NVIDIA RTX GPUs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy import machine
from deploy.contract import Heads
from deploy.machine import packages
from deploy.runtimes import DEFAULTS, Compiled, Delivery, Session, nvidia
from deploy.runtimes.nvidia import session
from deploy.runtimes.nvidia.options import BestBatch, CudaGraph, MaxBatch, Tf32, WorkspaceMib

DELIVERY = Delivery("tensorrt-rtx", ("gpu",))
INTEGERS = nvidia.INTEGERS
_CAPABILITY = re.compile(r"[0-9]{1,2}\.?[0-9]")


def compile(
    typed: Path,
    heads: Heads,
    out: Path,
    *,
    max_batch: MaxBatch = 8,
    best_batch: BestBatch = 1,
    workspace_mib: WorkspaceMib = None,
    tf32: Tf32 = False,
    cuda_graph: CudaGraph = False,
    compute_capability: float | str = "current",
) -> Compiled:
    """Write out/engine.plan.

    Args:
        compute_capability: compute capability of the GPU to build for, for example `8.9`; that GPU need not be in this machine.

    Raises:
        BuildError: the graph cannot be built.
    """
    # Imported late: identity() and why_not() work without the package, and only building needs the onnx package.
    import tensorrt_rtx

    from deploy.runtimes.nvidia.engine import Settings, build_plan

    settings = Settings(max_batch, best_batch, workspace_mib, tf32, compute_capability=compute_capability)
    return build_plan(tensorrt_rtx, typed, heads, out, settings)


def open(file: Path, *, threads: int | None = None, options: Mapping[str, Any] = DEFAULTS) -> Session:
    """Open an engine. `threads` is ignored, because the CPU computes nothing here; of the options, only `cuda_graph` is used.

    Raises:
        RuntimeUnavailable: TensorRT for RTX or the GPU is not available.
        ArtifactError: the file is not an engine for this runtime and GPU.
    """
    return session.open_engine("tensorrt_rtx", "tensorrt-rtx", file, cuda_graph=bool(options.get("cuda_graph")))


def identity() -> dict[str, str]:
    """TensorRT for RTX's version, that of NVIDIA's bindings if they are installed, and the GPU."""
    installed = packages.first("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx")
    return {"tensorrt_rtx": installed, **packages.present(cuda_bindings="cuda-bindings"), **machine.gpu()}


def fingerprint(options: Mapping[str, Any]) -> dict[str, str]:
    """`identity`; if a compute capability is set, that one without a GPU's name."""
    digits = str(options.get("compute_capability", "current")).replace(".", "")
    if digits == "current":
        return identity()
    return {"tensorrt_rtx": identity()["tensorrt_rtx"], "compute_capability": f"{digits[:-1]}.{digits[-1]}"}


def on_site(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options for this machine's GPU, if there is one."""
    return {**options, "compute_capability": "current"} if machine.gpu() else options


def foreign(fingerprint: Mapping[str, str]) -> str | None:
    """See deploy.runtimes.nvidia.session.foreign."""
    return session.foreign(fingerprint, identity(), ("tensorrt_rtx", "compute_capability"))


def why_never(options: Mapping[str, Any]) -> str | None:
    """See deploy.runtimes.nvidia.why_never; also if the compute capability has no such form."""
    capability = str(options["compute_capability"])
    if capability != "current" and not _CAPABILITY.fullmatch(capability):
        return f"compute_capability: got {capability}, allowed: current, or major and minor version such as 8.9"
    return nvidia.why_never(options)


def why_not() -> str | None:
    """None if TensorRT for RTX and a GPU are available."""
    return session.why_not("tensorrt_rtx", "tensorrt-rtx")


def why_not_build(options: Mapping[str, Any]) -> str | None:
    """None if TensorRT for RTX is installed, and a GPU or a compute capability names the device to build for."""
    missing = session.why_not_installed("tensorrt_rtx", "tensorrt-rtx")
    if not missing and options.get("compute_capability", "current") == "current" and not machine.gpu():
        missing = 'no NVIDIA GPU here to build for; set compute_capability on the target, for example "8.9"'
    return missing
