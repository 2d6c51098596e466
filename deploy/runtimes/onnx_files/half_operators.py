"""Operators in half precision, computed by NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array = NDArray[Any]


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
        assert images.ndim == 4, "only images"
        assert auto_pad in (None, "NOTSET"), "only explicit padding"
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
        assert kernel_shape is not None, "the kernel needs a shape"
        assert auto_pad in (None, "NOTSET"), "only explicit padding"
        top, left, bottom, right = pads or (0, 0, 0, 0)
        steps = strides or (1, 1)
        more = [step - 1 if ceil_mode else 0 for step in steps]
        windows = _windows(images, kernel_shape, (top, left, bottom + more[0], right + more[1]), strides, dilations, -np.inf)
        # a window that begins in the padding after the image does not count
        ends = [-(-(size + before) // step) for size, before, step in zip(images.shape[2:], (top, left), steps, strict=True)]
        return (windows[:, :, : ends[0], : ends[1]].max(axis=(4, 5)),)


class GridSample(OpRun):
    """ONNX's GridSample over images, bilinear, zero outside."""

    op_domain = ""

    def _run(
        self, images: Array, grid: Array, align_corners: int | None = None, mode: Any = None, padding_mode: Any = None
    ) -> tuple[Array]:
        assert _text(mode) in ("linear", "bilinear"), "only linear interpolation"
        assert _text(padding_mode) == "zeros", "only zeros outside"
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
    """Convert a place, -1 to 1 over an axis of `size` positions, to a position index."""
    return (place + 1) / 2 * (size - 1) if align_corners else ((place + 1) * size - 1) / 2


def _windows(
    images: Array,
    kernel: Sequence[int],
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    padding: float,
) -> Array:
    """The kernel's window at each place, as a view [B, C, H, W, kernel height, kernel width]."""
    top, left, bottom, right = pads or (0, 0, 0, 0)
    (down, across), (step_y, step_x) = dilations or (1, 1), strides or (1, 1)
    reach = (kernel[0] - 1) * down + 1, (kernel[1] - 1) * across + 1
    padded = np.pad(images, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=padding)
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    return windows[:, :, ::step_y, ::step_x, ::down, ::across]
