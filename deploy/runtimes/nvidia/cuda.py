"""Device memory and one stream through NVIDIA's own bindings, which let an engine run without torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.errors import ArtifactError


class Recording:
    """The recorded work of a stream."""

    graph: Any = None


class Device:
    """Named buffers that grow as needed, and the stream they are used on; close() frees both."""

    def __init__(self, cudart: Any) -> None:
        """Use `cudart`, the module cuda.bindings.runtime.

        Raises:
            ArtifactError: a CUDA call fails, as in every method.
        """
        self._cudart = cudart
        self._buffers: dict[str, tuple[int, int]] = {}
        self._recordings: list[Any] = []
        self._stream: Any = self._checked(cudart.cudaStreamCreate())

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def buffer(self, name: str, num_bytes: int) -> int:
        """The address of a buffer of at least `num_bytes`; its content is lost when it grows."""
        address, size = self._buffers.get(name, (0, -1))
        if size < num_bytes:
            if address:
                del self._buffers[name]
                self._checked(self._cudart.cudaFree(address))
            address = int(self._checked(self._cudart.cudaMalloc(max(num_bytes, 1))))
            self._buffers[name] = address, num_bytes
        return address

    def upload(self, values: NDArray[Any], address: int) -> None:
        """Queue a copy to the device; the array must be contiguous, and be kept until synchronize()."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._checked(self._cudart.cudaMemcpyAsync(address, values.ctypes.data, values.nbytes, kind, self._stream))

    def download(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Queue a copy from the device into a new array, filled after synchronize()."""
        values = np.empty(shape, dtype)
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._checked(self._cudart.cudaMemcpyAsync(values.ctypes.data, address, values.nbytes, kind, self._stream))
        return values

    @contextmanager
    def recording(self) -> Iterator["Recording"]:
        """Record the work queued inside instead of running it; the recording can be launched afterwards, and is freed by close()."""
        recorded = Recording()
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked(self._cudart.cudaStreamBeginCapture(self._stream, mode))
        failed = True
        try:
            yield recorded
            failed = False
        finally:
            ended = self._cudart.cudaStreamEndCapture(self._stream)  # in any case, otherwise nothing more can be queued
            if failed and int(ended[0]) == 0:
                self._cudart.cudaGraphDestroy(ended[1])
        graph = self._checked(ended)
        try:
            recorded.graph = self._checked(self._cudart.cudaGraphInstantiate(graph, 0))
        finally:
            self._cudart.cudaGraphDestroy(graph)
        self._recordings.append(recorded.graph)

    def launch(self, recorded: Any) -> None:
        """Queue the recorded work."""
        self._checked(self._cudart.cudaGraphLaunch(recorded, self._stream))

    def figures(self) -> tuple[int, float, float]:
        """The first GPU's number of multiprocessors, their clock in Hz, and its memory bandwidth in bytes per second."""
        names = ("MultiProcessorCount", "ClockRate", "MemoryClockRate", "GlobalMemoryBusWidth")
        wanted = [getattr(self._cudart.cudaDeviceAttr, f"cudaDevAttr{name}") for name in names]
        count, clock_khz, memory_khz, bus_bits = (int(self._checked(self._cudart.cudaDeviceGetAttribute(one, 0))) for one in wanted)
        return count, clock_khz * 1e3, 2 * memory_khz * 1e3 * bus_bits / 8  # memory moves data on both edges of its clock

    def synchronize(self) -> None:
        """Wait for all queued work."""
        self._checked(self._cudart.cudaStreamSynchronize(self._stream))

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        for address, _ in self._buffers.values():
            self._cudart.cudaFree(address)
        self._buffers.clear()
        for recorded in self._recordings:
            self._cudart.cudaGraphExecDestroy(recorded)
        self._recordings.clear()
        if self._stream is not None:
            self._cudart.cudaStreamDestroy(self._stream)
            self._stream = None

    def _checked(self, answer: tuple[Any, ...]) -> Any:
        error, *values = answer
        if int(error) != 0:
            _, text = self._cudart.cudaGetErrorString(error)
            raise ArtifactError(f"CUDA failed: {text.decode() if isinstance(text, bytes) else text}")
        return values[0] if values else None
