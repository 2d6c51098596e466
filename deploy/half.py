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
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from deploy import graph
from deploy.errors import ArtifactError
from deploy.onnx_engine import OUTPUTS
from deploy.runtimes import Batch, Raw, Session

Array = NDArray[Any]
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


class HalfSession(Session):
    """An open graph; `largest` is the largest absolute value so far of each tensor that is typed half."""

    def __init__(self, file: Path) -> None:
        """Read the graph.

        Raises:
            BuildError: the file is missing or no ONNX graph.
            ArtifactError: the evaluator lacks an operator.
        """
        model = graph.read(file)
        self._outputs = [value.name for value in model.graph.output if value.name in (*OUTPUTS, "masks")]
        try:
            self._evaluator = ReferenceEvaluator(model, new_ops=[Conv, MaxPool, MatMul, GatherElements, GridSample])
        except Exception as error:  # each operator has its own ways to say that it cannot
            raise ArtifactError(f"ONNX's reference evaluator cannot compute the graph ({graph.first_line(error)})") from error
        self._masked = _masked(model)
        self.largest: dict[str, float] = {}

    def infer(self, images: Batch) -> Raw:
        """See Session.infer.

        Raises:
            ArtifactError: a half tensor overflows, the first is named; or the evaluator cannot compute the graph.
        """
        with np.errstate(all="ignore"):  # infinities are looked for below, and named
            try:
                values = self._evaluator.run(None, {"images": images.astype(np.float32)}, intermediate=True)
            except Exception as error:  # each operator has its own ways to say that it cannot
                raise ArtifactError(f"ONNX's reference evaluator cannot compute the graph ({graph.first_line(error)})") from error
        assert isinstance(values, dict)
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.dtype == np.float16 and value.size:
                self._note(name, value)
        return Raw(**{name: np.asarray(values[name]) for name in self._outputs})

    def _note(self, name: str, value: Array) -> None:
        other = value[~np.isfinite(value)]
        if other.size and not (name in self._masked and np.isneginf(other).all()):
            raise ArtifactError(f"tensor '{name}' is not finite in half precision; choose fp32 or int8")
        largest = float(np.abs(value[np.isfinite(value)]).max(initial=0))
        self.largest[name] = max(self.largest.get(name, 0.0), largest)

    def close(self) -> None:
        """Nothing to free."""


def _masked(model: ModelProto) -> set[str]:
    """The tensors that may hold -infinity: made of a constant that does, as masks of attention mean it, before a softmax ends it."""
    found = {weight.name for weight in model.graph.initializer if np.isneginf(numpy_helper.to_array(weight)).any()}
    for node in model.graph.node:
        own = any(np.isneginf(numpy_helper.to_array(a.t)).any() for a in node.attribute if a.t.data_type in _FLOATS)
        if own or (node.op_type != "Softmax" and found.intersection(node.input)):
            found.update(node.output)
    return found


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
        top, left, bottom, right = pads or (0, 0, 0, 0)
        steps = strides or (1, 1)
        more = [step - 1 if ceil_mode else 0 for step in steps]
        windows = _windows(images, kernel_shape, (top, left, bottom + more[0], right + more[1]), strides, dilations, -np.inf)
        # a window that begins in the padding behind the image is none
        ends = [-(-(size + before) // step) for size, before, step in zip(images.shape[2:], (top, left), steps, strict=True)]
        return (windows[:, :, : ends[0], : ends[1]].max(axis=(4, 5)),)


class GridSample(OpRun):
    """ONNX's GridSample over images, bilinear, zero outside."""

    op_domain = ""

    def _run(
        self, images: Array, grid: Array, align_corners: int | None = None, mode: Any = None, padding_mode: Any = None
    ) -> tuple[Array]:
        assert _text(mode) in ("linear", "bilinear"), "interpolation between neighbours"
        assert _text(padding_mode) == "zeros", "nothing outside"
        batch, channels, height, width = images.shape
        places = grid.astype(np.float32)
        x, y = (_position(places[..., axis], size, bool(align_corners)) for axis, size in ((0, width), (1, height)))
        total = np.zeros((batch, channels, *grid.shape[1:3]), np.float32)
        rows, columns = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
        for row, row_share in ((rows, 1 - (y - rows)), (rows + 1, y - rows)):
            for column, share in ((columns, 1 - (x - columns)), (columns + 1, x - columns)):
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                index = (np.clip(row, 0, height - 1) * width + np.clip(column, 0, width - 1)).reshape(batch, 1, -1)
                taken = np.take_along_axis(images.reshape(batch, channels, -1).astype(np.float32), index, axis=2)
                total += taken.reshape(total.shape) * (row_share * share * inside)[:, None]
        return (total.astype(images.dtype),)


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


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _position(place: Array, size: int, align_corners: bool) -> Array:
    """From -1 to 1 over an axis of so many positions, to the positions' own numbers."""
    return (place + 1) / 2 * (size - 1) if align_corners else ((place + 1) * size - 1) / 2


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
