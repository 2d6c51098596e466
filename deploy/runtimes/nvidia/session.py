"""Runs a TensorRT engine.

Tested against a stand-in for TensorRT and CUDA, and by tests marked `gpu`, which have not run on a GPU yet.
"""

import importlib
import importlib.util
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import machine
from deploy.errors import ArtifactError, RuntimeUnavailable
from deploy.machine import files
from deploy.machine.peak import Peak, gpu
from deploy.precision import Batch, Precision
from deploy.runtimes import HOST_OUTPUT, Raw, Session, checked, refuse_raw
from deploy.runtimes.nvidia.cuda import Device
from deploy.runtimes.nvidia.log import make_logger

ContextKey = tuple[tuple[int, ...], tuple[int, ...]]
"""The images' shape and the addresses of all buffers, for which a recording is valid."""

_OUTPUTS: dict[str, type[np.generic]] = {"boxes": np.float32, "scores": np.float32, "labels": np.int64, "converged": np.bool_}


def why_not(package: str, extra: str) -> str | None:
    """Why engines of a package cannot run here."""
    missing = why_not_installed(package, extra)
    if missing:
        return missing
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return f'cuda-bindings is not installed: pip install "edgedistill[{extra}]"'
    return None if machine.gpu() else "no NVIDIA GPU here (driver not found)"


def why_not_installed(package: str, extra: str) -> str | None:
    """Why engines of a package cannot be built anywhere."""
    installed = importlib.util.find_spec(package) is not None
    return None if installed else f'{package} is not installed: pip install "edgedistill[{extra}]"'


def open_engine(package: str, extra: str, file: Path, *, cuda_graph: bool = False) -> Session:
    """Open an engine of a package, tensorrt or tensorrt_rtx.

    Raises:
        RuntimeUnavailable: the package, NVIDIA's bindings or the GPU is not available.
        ArtifactError: the file is not an engine for this runtime and GPU.
    """
    missing = why_not(package, extra)
    if missing:
        raise RuntimeUnavailable(missing)
    trt = importlib.import_module(package)
    cudart = importlib.import_module("cuda.bindings.runtime")
    return TensorRTSession(trt, cudart, make_logger(trt), file, cuda_graph=cuda_graph)


def foreign(fingerprint: Mapping[str, str], here: Mapping[str, str], keys: Sequence[str]) -> str | None:
    """How an engine's fingerprint differs from this machine in the `keys` that decide whether it runs; None if it does not."""
    other = next((key for key in keys if key in fingerprint and fingerprint[key] != here.get(key)), None)
    if other is None:
        return None
    return f"built for {other.replace('_', ' ')} {fingerprint[other]}, this machine has {here.get(other, 'none')}"


class TensorRTSession(Session):
    """An open TensorRT engine with its own device memory.

    With `cuda_graph`, the work for a batch size is recorded at its second consecutive run and launched as one unit from then on, in
    its own execution context, because a recording is valid only for its context's shape. It is valid only for its buffers, too, so
    a larger batch, which makes buffers grow, requires new recordings. TensorRT for RTX records by itself.
    """

    def __init__(self, trt: Any, cudart: Any, logger: Any, file: Path, *, cuda_graph: bool = False) -> None:
        """Read the engine.

        Args:
            trt: the module, tensorrt or tensorrt_rtx.
            cudart: the module cuda.bindings.runtime.
            logger: from nvidia.log.make_logger.

        Raises:
            ArtifactError: the file is not an engine for this runtime and GPU.
        """
        self._trt = trt
        self._logger = logger
        self._device = Device(cudart)
        self._cuda_graph = cuda_graph
        self._records = cuda_graph and not hasattr(trt, "CudaGraphStrategy")
        self._contexts: dict[tuple[int, ...], Any] = {}
        self._recorded: dict[ContextKey, Any] = {}
        self._last: ContextKey | None = None
        try:
            self._runtime = trt.Runtime(logger)
            self._engine = self._read(file)
            self._context = self._execution_context(f"{file}: ")
        except BaseException:
            self._device.close()
            raise

    def _read(self, file: Path) -> Any:
        try:
            plan = files.read_bytes(file)
        except OSError as error:
            raise ArtifactError(f"{file}: {error.strerror}") from error
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            reason = self._logger.reason()
            raise ArtifactError(f"{file}: not an engine for this {self._trt.__name__} and GPU ({reason}); rebuild it on this machine")
        names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        if "images" in names and HOST_OUTPUT in names:
            self._outputs: Mapping[str, type[np.generic]] = dict.fromkeys(sorted(names - {"images"}), np.float32)
            return engine
        if not names.issuperset({"images", *_OUTPUTS}):
            raise ArtifactError(f"{file}: not an edgedistill engine; it needs the input images and the outputs {', '.join(_OUTPUTS)}")
        self._outputs = {**_OUTPUTS, "masks": np.float32} if "masks" in names else _OUTPUTS
        return engine

    def _execution_context(self, where: str = "") -> Any:
        context = self._new_context()
        if context is None:
            raise ArtifactError(f"{where}not enough GPU memory for the engine ({self._logger.reason()})")
        return context

    def _new_context(self) -> Any:
        if not self._cuda_graph or self._records:
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self._engine.create_execution_context(config)

    def infer(self, images: Batch) -> Raw:
        """Run on images [B, 3, H, W] float32."""
        refuse_raw(() if HOST_OUTPUT in self._outputs else self._outputs)
        return checked(Raw(**self._run(images)), len(images))

    def heads(self, images: Batch, names: Sequence[str]) -> tuple[NDArray[np.float32], ...]:
        """See Session.heads."""
        if missing := set(names) - set(self._outputs):
            raise ArtifactError(f"the engine has no output {min(missing)}; build it again")
        values = self._run(images)
        return tuple(values[name] for name in names)

    def _run(self, images: Batch) -> dict[str, NDArray[Any]]:
        images = np.ascontiguousarray(images, np.float32)
        if self._records:
            if images.shape not in self._contexts:
                self._contexts[images.shape] = self._execution_context() if self._contexts else self._context
            self._context = self._contexts[images.shape]
        if not self._context.set_input_shape("images", images.shape):
            raise ArtifactError(f"the engine was not built for images {images.shape} ({self._logger.reason()})")
        address = self._device.buffer("images", images.nbytes)
        self._context.set_tensor_address("images", address)
        self._device.upload(images, address)
        outputs = {name: self._bind(name) for name in self._outputs}
        self._execute(images.shape, (address, *(place[0] for place in outputs.values())))
        values = {name: self._device.download(*place) for name, place in outputs.items()}
        self._device.synchronize()
        return {name: values[name].astype(dtype, copy=False) for name, dtype in self._outputs.items()}

    def _execute(self, shape: tuple[int, ...], addresses: tuple[int, ...]) -> None:
        """Queue the engine's work; record it, if requested, when the previous run was the same and did TensorRT's one-time setup."""
        key = shape, addresses
        if key in self._recorded:
            self._device.launch(self._recorded[key])
            return
        recording = self._records and key == self._last
        self._last = key
        if not recording:
            self._enqueue()
            return
        with self._device.recording() as recorded:
            self._enqueue()
        self._recorded[key] = recorded.graph
        self._device.launch(recorded.graph)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            hint = "; set the target's cuda_graph to false if it fails only with it" if self._records else ""
            raise ArtifactError(f"the engine failed on the GPU ({self._logger.reason()}){hint}")

    def proof(self) -> dict[str, Any]:
        """See Session.proof: number of the engine's layers per output type, according to its inspector."""
        inspector = self._engine.create_engine_inspector()
        told = json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        given = [layer["Outputs"][0] for layer in told.get("Layers", ()) if isinstance(layer, dict) and layer.get("Outputs")]
        kinds = Counter(_kind(str(output.get("Format/Datatype", ""))) for output in given)
        return {f"layers_{kind}": number for kind, number in sorted(kinds.items())}

    def peak(self, precision: Precision) -> Peak | None:
        """See Session.peak."""
        return gpu(precision, *self._device.figures())

    def _bind(self, name: str) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
        """Give an output a buffer for its coming shape; returns address, shape and type."""
        shape = tuple(self._context.get_tensor_shape(name))
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        address = self._device.buffer(name, int(np.prod(shape)) * dtype.itemsize)
        self._context.set_tensor_address(name, address)
        return address, shape, dtype

    def close(self) -> None:
        """Free the GPU's memory; TensorRT requires freeing the context before the engine, and the engine before the runtime."""
        self._device.close()
        self._contexts.clear()
        self._context = self._engine = self._runtime = None


def _kind(told: str) -> str:
    """The type, such as fp32 or fp16, from an inspector's description of a tensor: "Half NHWC8", "Row major linear FP16 format"."""
    words = told.lower().replace("float32", "fp32").replace("float16", "fp16").replace("half", "fp16").replace("float", "fp32")
    return next(
        (kind for kind in ("bf16", "fp16", "fp8", "int8", "fp4", "int4", "int32", "int64", "bool", "fp32") if kind in words), "other"
    )
