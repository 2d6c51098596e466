"""Slices that skip rows or columns of images, as convolutions that pick the others: ncnn's own slices cannot skip."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

_MOST = 8
"""Steps up to this are replaced."""


def pick_by_convolution(model: ModelProto) -> None:
    """Replace every slice whose steps divide the sides of its images; the same numbers come out. `model` has fixed shapes."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    constants = _constants(model)
    for index, node in enumerate(list(model.graph.node)):
        picked = _picked(node, shapes.get(node.input[0], []), constants) if node.op_type == "Slice" else None
        if picked is None:
            continue
        kernel = np.zeros((shapes[node.input[0]][1], 1, *(step for _, step in picked)), np.float32)
        kernel[:, :, picked[0][0], picked[1][0]] = 1
        weight = f"{node.output[0]}/picks"
        model.graph.initializer.append(numpy_helper.from_array(kernel, weight))
        steps = list(kernel.shape[2:])
        own = helper.make_node("Conv", [node.input[0], weight], list(node.output), kernel_shape=steps, strides=steps, group=len(kernel))
        model.graph.node[index].CopyFrom(own)


def _constants(model: ModelProto) -> dict[str, NDArray[Any]]:
    found = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _picked(node: NodeProto, shape: list[int], constants: Mapping[str, NDArray[Any]]) -> list[tuple[int, int]] | None:
    """The first row and the step, and the first column and the step, that a slice takes; None if it skips none, or not like this."""
    if len(shape) != 4 or len(node.input) < 5 or any(name not in constants for name in node.input[1:]):
        return None
    found = {2: (0, 1), 3: (0, 1)}
    for start, end, axis, step in zip(*(constants[name].tolist() for name in node.input[1:]), strict=True):
        place = axis % 4
        whole = place in found and 0 <= start < step <= _MOST and end >= shape[place] and shape[place] % step == 0
        if not whole:
            return None
        found[place] = start, step
    return None if all(step == 1 for _, step in found.values()) else [found[2], found[3]]
