"""A half-precision ONNX graph computed in true half: every tensor that is typed half is rounded to half.

ONNX Runtime's CPU provider computes such graphs in fp32, and so proves nothing about what a GPU will answer. Here ONNX's own
reference evaluator runs them. Departures from it: convolutions and matrix products add up in fp32 and round the sum, as GPUs do,
and element-wise gathers take more than 64 rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from deploy import graph
from deploy.errors import ArtifactError
from deploy.onnx_engine import OUTPUTS
from deploy.runtimes import Batch, Raw, Session

Array = NDArray[Any]


class HalfSession(Session):
    """An open graph; `largest` is the largest absolute value so far of each tensor that is typed half."""

    def __init__(self, file: Path) -> None:
        """Read the graph.

        Raises:
            BuildError: the file is missing or no ONNX graph.
        """
        model = graph.read(file)
        self._outputs = [value.name for value in model.graph.output if value.name in (*OUTPUTS, "masks")]
        self._evaluator = ReferenceEvaluator(model, new_ops=[Conv, MaxPool, MatMul, GatherElements])
        self.largest: dict[str, float] = {}

    def infer(self, images: Batch) -> Raw:
        """See Session.infer.

        Raises:
            ArtifactError: a half tensor is not finite; the first is named.
        """
        with np.errstate(all="ignore"):  # infinities are looked for below, and named
            values = self._evaluator.run(None, {"images": images.astype(np.float32)}, intermediate=True)
        assert isinstance(values, dict)
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.dtype == np.float16 and value.size:
                self._note(name, value)
        return Raw(**{name: np.asarray(values[name]) for name in self._outputs})

    def _note(self, name: str, value: Array) -> None:
        largest = float(np.abs(value).max())
        if not np.isfinite(largest):
            raise ArtifactError(f"tensor '{name}' is not finite in half precision; choose fp32 or int8")
        self.largest[name] = max(self.largest.get(name, 0.0), largest)

    def close(self) -> None:
        """Nothing to free."""


class Conv(OpRun):
    """ONNX's Conv over images."""

    op_domain = ""

    def _run(
        self,
        images: Array,
        weight: Array,
        bias: Array | None = None,
        auto_pad: str | None = None,
        dilations: list[int] | None = None,
        group: int | None = None,
        kernel_shape: list[int] | None = None,
        pads: list[int] | None = None,
        strides: list[int] | None = None,
    ) -> tuple[Array]:
        assert images.ndim == 4, "images alone"
        assert auto_pad in (None, "NOTSET"), "padding by number"
        group = group or 1
        windows = _windows(images.astype(np.float32), weight.shape[2:], pads, strides, dilations, 0)
        batch, channels, rows, columns = windows.shape[:4]
        parts = windows.reshape(batch, group, channels // group, *windows.shape[2:]).transpose(0, 1, 3, 4, 2, 5, 6)
        parts = parts.reshape(batch, group, rows * columns, -1)
        kernels = weight.astype(np.float32).reshape(group, weight.shape[0] // group, -1).transpose(0, 2, 1)
        sums = (parts @ kernels).transpose(0, 1, 3, 2).reshape(batch, weight.shape[0], rows, columns)
        if bias is not None:
            sums += bias.astype(np.float32)[:, None, None]
        return (sums.astype(images.dtype),)


class MaxPool(OpRun):
    """ONNX's MaxPool over images, without indices."""

    op_domain = ""

    def _run(
        self,
        images: Array,
        auto_pad: str | None = None,
        ceil_mode: int | None = None,
        dilations: list[int] | None = None,
        kernel_shape: list[int] | None = None,
        pads: list[int] | None = None,
        storage_order: int | None = None,
        strides: list[int] | None = None,
    ) -> tuple[Array]:
        assert kernel_shape is not None, "a kernel's shape"
        assert auto_pad in (None, "NOTSET"), "padding by number"
        assert not ceil_mode, "only whole windows"
        windows = _windows(images, kernel_shape, pads, strides, dilations, -np.inf)
        return (windows.max(axis=(4, 5)),)


class MatMul(OpRun):
    """ONNX's MatMul."""

    op_domain = ""

    def _run(self, a: Array, b: Array) -> tuple[Array]:
        return (np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype) if a.dtype == np.float16 else np.matmul(a, b),)


class GatherElements(OpRun):
    """ONNX's GatherElements."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int | None = None) -> tuple[Array]:
        axis = axis or 0
        return (np.take_along_axis(data, indices % data.shape[axis], axis),)


def _windows(
    images: Array,
    kernel: Sequence[int],
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    padding: float,
) -> Array:
    """What a kernel sees at each place, a view [B, C, H, W, kernel height, kernel width]."""
    top, left, bottom, right = pads or (0, 0, 0, 0)
    (down, across), (step_y, step_x) = dilations or (1, 1), strides or (1, 1)
    reach = (kernel[0] - 1) * down + 1, (kernel[1] - 1) * across + 1
    padded = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=padding)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    return windows[:, :, ::step_y, ::step_x, ::down, ::across]
