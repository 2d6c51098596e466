"""TensorRT and CUDA with host memory for the device's and ONNX Runtime for the engine, with the calls that the session makes."""

import ctypes
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx_samples
import onnxruntime
from numpy.typing import NDArray

STREAM = 77
OUT_OF_MEMORY = 2
TOLD = """{"Layers": [
  {"Name": "a", "Outputs": [{"Name": "x", "Format/Datatype": "Half NHWC8"}]},
  {"Name": "b", "Outputs": [{"Name": "y", "Format/Datatype": "Half NHWC8"}, {"Name": "z", "Format/Datatype": "Float"}]},
  {"Name": "c", "Outputs": [{"Name": "w", "Format/Datatype": "Row major linear FP32"}]}, "a layer without details",
  {"Name": "d", "Outputs": [{"Name": "v", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]}
], "Bindings": ["images"]}"""


class Cuda:
    """cuda.bindings.runtime; keeps account of what is held. The call named `fail` answers with an error."""

    cudaMemcpyKind: ClassVar = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, fail: str = "") -> None:
        self.fail = fail
        self.held: dict[int, Any] = {}
        self.streams = 0
        self.recording: list[Any] | None = None
        self.graphs = 0
        self.launches = 0

    def _answer(self, name: str, *values: Any) -> tuple[Any, ...]:
        return (OUT_OF_MEMORY if name == self.fail else 0, *values)

    def cudaStreamCreate(self) -> tuple[Any, ...]:  # noqa: N802
        self.streams += 1
        return self._answer("cudaStreamCreate", STREAM)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.streams -= 1
        return self._answer("cudaStreamDestroy")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cudaStreamSynchronize")

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        memory = ctypes.create_string_buffer(size)
        if self.fail != "cudaMalloc":
            self.held[ctypes.addressof(memory)] = memory
        return self._answer("cudaMalloc", ctypes.addressof(memory))

    def cudaFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        del self.held[address]
        return self._answer("cudaFree")

    def cudaMemcpyAsync(self, to: int, source: int, count: int, kind: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        device = {1: to, 2: source}[kind]
        assert count <= len(self.held[device])
        ctypes.memmove(to, source, count)
        return self._answer("cudaMemcpyAsync")

    cudaStreamCaptureMode: ClassVar = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaDeviceAttr: ClassVar = SimpleNamespace(  # noqa: N815
        cudaDevAttrMultiProcessorCount=16, cudaDevAttrClockRate=13, cudaDevAttrMemoryClockRate=36, cudaDevAttrGlobalMemoryBusWidth=37
    )

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:  # noqa: N802
        self.recording = []
        return self._answer("cudaStreamBeginCapture")

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        recorded, self.recording = self.recording, None
        return self._answer("cudaStreamEndCapture", recorded)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:  # noqa: N802
        self.graphs += 1
        return self._answer("cudaGraphInstantiate", graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cudaGraphDestroy")

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any, ...]:  # noqa: N802
        self.graphs -= 1
        return self._answer("cudaGraphExecDestroy")

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.launches += 1
        for work in graph:
            work()
        return self._answer("cudaGraphLaunch")

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, ...]:  # noqa: N802
        values = {16: 128, 13: 2_520_000, 36: 10_501_000, 37: 384}  # an RTX 4090
        return self._answer("cudaDeviceGetAttribute", values[attribute])

    def cudaGetErrorString(self, error: int) -> tuple[Any, ...]:  # noqa: N802
        assert error == OUT_OF_MEMORY
        return 0, b"out of memory"


class TensorRT:
    """The module: an engine is an ONNX file of the sample, built for at most `max_batch` images."""

    __name__ = "tensorrt"

    class ILogger:
        Severity: ClassVar = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    class LayerInformationFormat:
        JSON = 1

    def __init__(self, max_batch: int = 2, *, works: bool = True, masks: bool = False, cuda: Cuda | None = None) -> None:
        self.max_batch = max_batch
        self.cuda = cuda
        self.executions = 0
        self.works = works
        self.types: dict[str, Any] = {
            "images": np.float32,
            "boxes": np.float32,
            "scores": np.float32,
            "labels": np.int64,
            "converged": np.bool_,
        }
        if masks:
            self.types["masks"] = np.float32

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: self._engine(plan, logger))

    def nptype(self, dtype: Any) -> Any:
        return dtype

    def _engine(self, plan: bytes, logger: Any) -> Any:
        if not plan.startswith(b"\x08"):  # where ONNX files begin
            logger.log(1, "[a.cpp::b::1] Error Code 1: Serialization (bad plan In f at /x.cpp:3)")
            return None
        names = list(self.types)
        return SimpleNamespace(
            num_io_tensors=len(names),
            get_tensor_name=names.__getitem__,
            get_tensor_dtype=self.types.__getitem__,
            create_execution_context=lambda: Context(self, plan),
            create_engine_inspector=lambda: SimpleNamespace(get_engine_information=lambda _: TOLD),
        )


class Context:
    """An execution context, which computes on the addresses bound to it."""

    def __init__(self, trt: TensorRT, plan: bytes) -> None:
        self.trt = trt
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.addresses: dict[str, int] = {}
        self.batch = 0
        self.shapes = 0
        """How often its shape has changed: what was recorded before is no good after."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes += shape[0] != self.batch
        self.batch = shape[0]
        return name == "images" and shape[0] <= self.trt.max_batch

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        k, side = onnx_samples.MAX_DETECTIONS, onnx_samples.BOX_MASK
        shapes = {"boxes": (self.batch, k, 4), "converged": (self.batch,), "masks": (self.batch, k, side, side)}
        return shapes.get(name, (self.batch, k))

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == STREAM
        self.trt.executions += 1
        if self.trt.cuda is not None and self.trt.cuda.recording is not None:
            self.trt.cuda.recording.append(partial(self._replay, self.shapes))
            return self.trt.works
        return self._compute()

    def _replay(self, shapes: int) -> bool:
        assert shapes == self.shapes, "recorded in a context whose shape has changed since"
        return self._compute()

    def _compute(self) -> bool:
        images = self._array("images", (self.batch, 3, 64, 64)).copy()
        names = [name for name in self.addresses if name != "images"]
        for name, value in zip(names, self.session.run(names, {"images": images}), strict=True):
            self._array(name, value.shape)[:] = value
        return self.trt.works

    def _array(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        dtype = np.dtype(self.trt.types[name])
        memory = (ctypes.c_ubyte * (int(np.prod(shape)) * dtype.itemsize)).from_address(self.addresses[name])
        values: NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        return values
