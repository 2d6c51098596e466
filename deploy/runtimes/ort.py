"""ONNX Runtime: on the CPU, and on an NVIDIA GPU where its CUDA provider works.

The engine is an ONNX file; graph optimizations are ONNX Runtime's own, made for the machine when the file is opened. Its CPU
provider computes fp16 graphs in fp32, so that precision is worth its while on a GPU alone.
"""

import contextlib
import importlib.util
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deploy import machine
from deploy.contract import Heads
from deploy.errors import ArtifactError, RuntimeUnavailable, first_line
from deploy.machine import packages
from deploy.machine.peak import Peak, cpu
from deploy.precision import PLAIN, Batch, Calibration, Precision, Quantization, Recipe
from deploy.runtimes import DEFAULTS, ONNX_BACKEND, Compiled, Delivery, Raw, Session
from deploy.runtimes.onnx_files import engine

INTEGERS = Recipe(signed_activations=False, quantize_bias=True, quantize_outputs=True, narrow_weights=True)
"""x86's VNNI multiplies unsigned by signed bytes; an asymmetric range also wastes nothing on ReLU's missing negatives, and makes
the ReLU itself part of the rounding. ONNX Runtime computes in integers only where a layer's output is rounded, too. A processor
without VNNI adds two products in 16 bits, where full weights overflow and narrow ones do not; an engine may come to run on one."""
DELIVERY = Delivery(gpu_packages=("onnxruntime-gpu[cuda,cudnn]",), triton=ONNX_BACKEND)
_DISTRIBUTIONS = ("onnxruntime-gpu", "onnxruntime")
_FATAL_ONLY = 4
_CPU = ("CPUExecutionProvider",)
_CUDA = ("CUDAExecutionProvider", *_CPU)
_CHAINS = {"auto": _CUDA, "cpu": _CPU, "cuda": _CUDA, "tensorrt": ("TensorrtExecutionProvider", *_CUDA)}


def compile(
    onnx: Path,
    out: Path,
    *,
    precision: Precision,
    calibration: Calibration,
    heads: Heads,
    quantization: Quantization = PLAIN,
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto",
    optimization: Literal["all", "none"] = "all",
) -> Compiled:
    """Write out/engine.onnx.

    Args:
        provider: what computes; auto is CUDA where it works, else the CPU. Used when the engine is opened, as `optimization` is.
        optimization: of the graph by ONNX Runtime; none runs it node by node as it is written.

    Raises:
        RuntimeUnavailable: a package is missing.
        BuildError: the graph cannot be converted.
    """
    if missing := why_not():
        raise RuntimeUnavailable(missing)
    return engine.write(onnx, out, precision, calibration, heads, INTEGERS, quantization)


def open(file: Path, *, threads: int | None = None, options: Mapping[str, Any] = DEFAULTS) -> Session:
    """Open an engine, on the GPU where ONNX Runtime can use one, or on the provider that the options name.

    Args:
        threads: of the CPU; None for one a physical core, or one a core where this process may not use all.
        options: those of `compile`.

    Raises:
        RuntimeUnavailable: ONNX Runtime or the provider is not here.
        ArtifactError: the file is no engine of ours.
    """
    missing = why_not()
    if missing:
        raise RuntimeUnavailable(missing)
    # Identity and reasons are asked for on machines, and in runs, that open no engine.
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.intra_op_num_threads = threads or _default_threads()
    if options.get("optimization") == "none":
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = _providers(onnxruntime, options.get("provider", "auto"))
    try:
        session = onnxruntime.InferenceSession(file.read_bytes(), settings, providers=providers)
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror}") from error
    except Exception as error:  # ONNX Runtime raises a dozen kinds of its own
        raise ArtifactError(f"{file}: not an engine that ONNX Runtime can open ({first_line(error)}); build it again") from error
    if options.get("provider", "auto") != "auto" and session.get_providers()[0] != providers[0]:
        raise RuntimeUnavailable(f"provider {options['provider']}: {providers[0]} does not start on this machine (are its libraries here?)")
    inputs, outputs = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))
    return OrtSession(session, engine.outputs(file, inputs, outputs))


def identity() -> dict[str, str]:
    """ONNX Runtime's version, the processor and the GPU."""
    return {"onnxruntime": packages.first(*_DISTRIBUTIONS), "cpu": machine.cpu_model(), **machine.gpu()}


def foreign(fingerprint: Mapping[str, str]) -> None:
    """Engines run on any machine; they are compiled for it when they are opened."""


def why_not() -> str | None:
    """None where ONNX Runtime is installed."""
    installed = importlib.util.find_spec("onnxruntime") is not None
    return None if installed else 'onnxruntime is not installed: pip install "edgedistill"'


class OrtSession(Session):
    """An open ONNX Runtime session."""

    def __init__(self, session: Any, outputs: tuple[str, ...]) -> None:
        self._session = session
        self._outputs = outputs

    @property
    def provider(self) -> str:
        """What computes, CPUExecutionProvider for example."""
        return str(self._session.get_providers()[0])

    def infer(self, images: Batch) -> Raw:
        """Run on images [B, 3, H, W] float32."""
        try:
            values = self._session.run(self._outputs, {"images": np.ascontiguousarray(images, np.float32)})
        except Exception as error:
            raise ArtifactError(f"the engine failed on images {images.shape}: {first_line(error)}") from error
        return Raw(*values)

    def peak(self, precision: Precision) -> Peak | None:
        """See Session.peak; of the CPU alone."""
        return cpu(precision) if self.provider in _CPU else None

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _default_threads() -> int:
    """0, ONNX Runtime's own choice, counts cores that a container or taskset has taken from this process; more threads than cores spin."""
    usable = machine.num_cores()
    return usable if usable < (os.cpu_count() or 1) else 0


def _providers(onnxruntime: Any, wanted: str) -> list[str]:
    """In the order of preference; ONNX Runtime gives what a provider lacks, or all where its libraries do not load, to the next.

    Raises:
        RuntimeUnavailable: a provider that is asked for by name is not here.
    """
    chain = _CHAINS[wanted]
    if chain == _CPU:
        return list(chain)
    here = machine.gpu() and set(chain) <= set(onnxruntime.get_available_providers())
    if not here and wanted != "auto":
        raise RuntimeUnavailable(f"provider {wanted}: ONNX Runtime has no {chain[0]} on this machine; choose auto or cpu")
    if not here:
        return list(_CPU)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):  # it prints what it does not find
        onnxruntime.preload_dlls()
    return list(chain)
