"""ONNX Runtime: on the CPU, and on an NVIDIA GPU if its CUDA provider works.

The engine is an ONNX file; ONNX Runtime optimizes the graph for the machine when the file is opened. Its CPU provider computes
fp16 graphs in fp32, so fp16 is worthwhile only on a GPU.
"""

import contextlib
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploy import machine
from deploy.contract import Heads
from deploy.errors import ArtifactError, RuntimeUnavailable, first_line
from deploy.machine import packages
from deploy.machine.peak import Peak, cpu
from deploy.precision import Batch, Precision, Recipe
from deploy.runtimes import DEFAULTS, ONNX_BACKEND, Compiled, Delivery, Raw, Session, checked, refuse_raw
from deploy.runtimes.onnx_files import engine
from deploy.runtimes.onnx_files.header import open_model

INTEGERS = Recipe(signed_activations=False, quantize_bias=True, quantize_outputs=True, narrow_weights=True)
"""x86's VNNI multiplies unsigned by signed bytes; an asymmetric range also wastes nothing on negative values, which ReLU removes,
and merges the ReLU into the rounding. ONNX Runtime computes in integers only if a layer's output is rounded, too. A processor
without VNNI adds two products in 16 bits, which overflows with full weights but not with narrow ones; engines may run on one."""
DELIVERY = Delivery(gpu_packages=("onnxruntime-gpu[cuda,cudnn]",), triton=ONNX_BACKEND)
_DISTRIBUTIONS = ("onnxruntime-gpu", "onnxruntime")
_FATAL_ONLY = 4
_CPU = ("CPUExecutionProvider",)
_CUDA = ("CUDAExecutionProvider", *_CPU)
_CHAINS = {"auto": _CUDA, "cpu": _CPU, "cuda": _CUDA, "tensorrt": ("TensorrtExecutionProvider", *_CUDA)}


def compile(
    typed: Path,
    heads: Heads,
    out: Path,
    *,
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto",
    optimization: Literal["all", "none"] = "all",
) -> Compiled:
    """Write out/engine.onnx.

    Args:
        provider: execution provider; `auto` uses CUDA if it works, otherwise the CPU.
        optimization: graph optimization when the graph is opened; `none` runs it node by node as written.

    Raises:
        BuildError: the graph is damaged or lacks a head output.
    """
    return engine.write(typed, heads, out)


def open(file: Path, *, threads: int | None = None, options: Mapping[str, Any] = DEFAULTS) -> Session:
    """Open an engine, on the GPU if ONNX Runtime can use one, or on the provider that the options name.

    Args:
        threads: CPU threads; None for one per physical core, or one per usable core if this process may not use all.
        options: the options of `compile`.

    Raises:
        RuntimeUnavailable: ONNX Runtime or the provider is not available.
        ArtifactError: the file is not an edgedistill engine.
    """
    missing = why_not()
    if missing:
        raise RuntimeUnavailable(missing)
    # Imported late: identity() and why_not() are also called where no engine is opened.
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.intra_op_num_threads = threads or _default_threads()
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # an idle session would keep a core busy for milliseconds
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    if options.get("optimization") == "none":
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = _providers(onnxruntime, options.get("provider", "auto"))
    try:
        session = onnxruntime.InferenceSession(open_model(file), settings, providers=providers)
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror}") from error
    except Exception as error:  # ONNX Runtime raises a dozen classes of its own
        raise ArtifactError(f"{file}: not an engine that ONNX Runtime can open ({first_line(error)}); rebuild it") from error
    if options.get("provider", "auto") != "auto" and session.get_providers()[0] != providers[0]:
        raise RuntimeUnavailable(f"provider {options['provider']}: {providers[0]} does not start on this machine (missing libraries?)")
    inputs, outputs = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))
    return OrtSession(session, engine.outputs(file, inputs, outputs))


def identity() -> dict[str, str]:
    """ONNX Runtime's distribution and version, the processor, and the GPU with the library that the CUDA provider needs."""
    gpu = machine.gpu()
    library = {"cudnn": packages.first("nvidia-cudnn-cu13", "nvidia-cudnn-cu12")} if gpu else {}
    return {"onnxruntime": packages.first(*_DISTRIBUTIONS), **machine.cpu(), **gpu, **library}


def foreign(fingerprint: Mapping[str, str]) -> None:
    """None: engines run on any machine, and are compiled for it when they are opened."""


def why_not() -> str | None:
    """None if ONNX Runtime is installed."""
    installed = importlib.util.find_spec("onnxruntime") is not None
    return None if installed else 'onnxruntime is not installed: pip install "edgedistill"'


class OrtSession(Session):
    """An open ONNX Runtime session."""

    def __init__(self, session: Any, outputs: tuple[str, ...]) -> None:
        self._session = session
        self._outputs = outputs

    @property
    def provider(self) -> str:
        """The provider that computes, for example CPUExecutionProvider."""
        return str(self._session.get_providers()[0])

    def infer(self, images: Batch) -> Raw:
        """Run on images [B, 3, H, W] float32."""
        refuse_raw(self._outputs)
        return checked(Raw(*self._run(images, self._outputs)), len(images))

    def heads(self, images: Batch, names: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """See Session.heads."""
        return tuple(self._run(images, names))

    def _run(self, images: Batch, names: Sequence[str]) -> list[NDArray[Any]]:
        try:
            values: list[NDArray[Any]] = self._session.run(list(names), {"images": np.ascontiguousarray(images, np.float32)})
        except Exception as error:
            raise ArtifactError(f"the engine failed on images {images.shape}: {first_line(error)}") from error
        return values

    def peak(self, precision: Precision) -> Peak | None:
        """See Session.peak; only for the CPU."""
        return cpu(precision) if self.provider in _CPU else None

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _default_threads() -> int:
    """The usable cores if restricted: 0, ONNX Runtime's choice, ignores limits by containers or taskset, and extra threads only spin."""
    usable = machine.num_cores()
    return usable if usable < (os.cpu_count() or 1) else 0


def _providers(onnxruntime: Any, wanted: str) -> list[str]:
    """Providers in order of preference; ONNX Runtime falls back to the next for operators or libraries that one lacks.

    Raises:
        RuntimeUnavailable: a provider requested by name is not available.
    """
    chain = _CHAINS[wanted]
    if chain == _CPU:
        return list(chain)
    here = machine.gpu() and set(chain) <= set(onnxruntime.get_available_providers())
    if not here and wanted != "auto":
        raise RuntimeUnavailable(f"provider {wanted}: ONNX Runtime has no {chain[0]} on this machine; choose auto or cpu")
    if not here:
        return list(_CPU)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):  # it prints which libraries it does not find
        onnxruntime.preload_dlls()
    return list(chain)
