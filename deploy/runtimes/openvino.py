"""OpenVINO on the CPU; often the fastest runtime there, especially in int8.

The engine is an ONNX file, compiled for the machine when it is opened: once per batch size, because OpenVINO runs fixed shapes
faster than dynamic ones.
"""

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import machine
from deploy.contract import Heads
from deploy.errors import ArtifactError, RuntimeUnavailable
from deploy.machine import packages
from deploy.machine.peak import Peak, cpu
from deploy.precision import Batch, Precision, Recipe
from deploy.runtimes import DEFAULTS, Compiled, Delivery, Raw, Session, TritonBackend, checked, refuse_raw
from deploy.runtimes.onnx_files import engine
from deploy.runtimes.onnx_files.header import open_model

_KINDS = {"Convolution": "convolutions", "Deconvolution": "convolutions", "FullyConnected": "products", "MatMul": "products"}
_TYPES = {"f32": "fp32", "f16": "fp16", "u8": "int8", "i8": "int8"}
DELIVERY = Delivery("openvino", ("cpu",), triton=TritonBackend("openvino", "", "model.onnx"))
INTEGERS = Recipe(signed_activations=False, quantize_bias=False, quantize_outputs=False, narrow_weights=True)
"""Rounding a layer's inputs is enough: OpenVINO moves the rounding to the output of the preceding layer. Weights are narrow for the
reason that ort.py gives: the file may run on a processor without VNNI, where full weights cost a mobile network a point of mAP."""


def compile(typed: Path, heads: Heads, out: Path) -> Compiled:
    """Write out/engine.onnx. The CPU computes fp16 in fp32.

    Raises:
        BuildError: the graph is damaged or lacks a head output.
    """
    return engine.write(typed, heads, out)


def open(file: Path, *, threads: int | None = None, options: Mapping[str, Any] = DEFAULTS) -> Session:
    """Open an engine; `threads` is the number of CPU threads, None for all that this process may use.

    Raises:
        RuntimeUnavailable: OpenVINO is not installed.
        ArtifactError: the file is not an edgedistill engine.
    """
    missing = why_not()
    if missing:
        raise RuntimeUnavailable(missing)
    import openvino  # imported late: identity() and why_not() are also called where no engine is opened

    core = openvino.Core()
    try:
        model = core.read_model(open_model(file))
    except OSError as error:
        raise ArtifactError(f"{file}: {error.strerror}") from error
    except RuntimeError as error:
        raise ArtifactError(f"{file}: not an engine that OpenVINO can open ({_last_line(error)}); rebuild it") from error
    inputs, outputs = ([name for port in ports for name in port.names] for ports in (model.inputs, model.outputs))
    return OpenVinoSession(core, model, threads or machine.num_cores(), engine.outputs(file, inputs, outputs))


def identity() -> dict[str, str]:
    """OpenVINO's version and the processor."""
    return {"openvino": packages.version("openvino") or "not installed", **machine.cpu()}


def foreign(fingerprint: Mapping[str, str]) -> None:
    """None: engines run on any machine, and are compiled for it when they are opened."""


def why_not() -> str | None:
    """None if OpenVINO is installed."""
    installed = importlib.util.find_spec("openvino") is not None
    return None if installed else 'openvino is not installed: pip install "edgedistill[openvino]"'


class OpenVinoSession(Session):
    """An open engine, compiled once for each batch size it is given."""

    def __init__(self, core: Any, model: Any, threads: int, outputs: tuple[str, ...]) -> None:
        self._core = core
        self._model = model
        # The hint keeps fp32 as fp32: on processors with AMX the default is bf16.
        self._options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self._outputs = outputs
        self._requests: dict[tuple[int, ...], Any] = {}

    def infer(self, images: Batch) -> Raw:
        """Run on images [B, 3, H, W] float32."""
        refuse_raw(self._outputs)
        values = dict(zip(self._outputs, self.heads(images, self._outputs), strict=True))
        return checked(Raw(**{**values, "converged": values["converged"].astype(np.bool_)}), len(images))

    def heads(self, images: Batch, names: Sequence[str]) -> tuple[NDArray[Any], ...]:
        """See Session.heads."""
        try:
            request = self._requests.get(images.shape) or self._compiled(images.shape)
            results = request.infer({"images": np.ascontiguousarray(images, np.float32)})
            return tuple(np.array(results[name]) for name in names)
        except (RuntimeError, KeyError) as error:
            raise ArtifactError(f"the engine failed on images {images.shape}: {_last_line(error)}") from error

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        fixed = self._model.clone()
        fixed.reshape({"images": list(shape)})
        self._requests[shape] = self._core.compile_model(fixed, "CPU", self._options).create_infer_request()
        return self._requests[shape]

    def proof(self) -> dict[str, int]:
        """See Session.proof: number of convolutions and matrix products per computation type, for the batch size compiled last."""
        if not self._requests:
            return {}
        compiled = list(self._requests.values())[-1].get_compiled_model()
        told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
        pairs = [(str(one["layerType"].value), str(one["runtimePrecision"].value)) for one in told]
        counts = Counter(f"{_KINDS[kind]}_{_TYPES.get(name, name)}" for kind, name in pairs if kind in _KINDS)
        return dict(sorted(counts.items()))

    def peak(self, precision: Precision) -> Peak | None:
        """See Session.peak."""
        return cpu(precision)

    def close(self) -> None:
        """Free the memory of all compiled models."""
        self._requests.clear()
        self._model = self._core = None


def _last_line(error: Exception) -> str:
    """The last line of OpenVINO's message: the lines before it name the place in its sources, the last one the problem."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
