"""Cost of a graph, counted from its nodes and shapes: products, bytes, operators."""

import math
from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from deploy.contract import Cost
from deploy.errors import BuildError, first_line
from deploy.precision import network

Shapes = Mapping[str, tuple[tuple[int, ...], int]]
"""Each tensor's dimensions and ONNX element type."""

_BYTES: Mapping[int, int] = {
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64), 8),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT16, TensorProto.UINT16), 2),
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL), 1),
}


def cost(model: ModelProto) -> Cost:
    """Cost of one image.

    Activations are counted for a runtime that fuses only rounding: each lives from the node that produces it to the last one that
    reads it; outputs of DequantizeLinear, and tensors read only by QuantizeLinear, are not written to memory.

    Raises:
        BuildError: the graph is inconsistent.
    """
    model = _of_one_image(model)
    shapes = _shapes(model)
    nodes = list(model.graph.node)
    return Cost(
        macs=sum(_macs(node, shapes) for node in nodes),
        operators=dict(sorted(Counter(node.op_type for node in nodes).items())),
        weight_bytes=sum(_size(list(weight.dims), weight.data_type) for weight in model.graph.initializer),
        peak_activation_bytes=_peak(model, shapes),
        input_bytes=sum(_bytes(value.name, shapes) for value in model.graph.input),
    )


def _of_one_image(model: ModelProto) -> ModelProto:
    """A copy with batch size 1 and newly inferred shapes."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in fixed.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    try:
        return onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True)
    except Exception as error:
        raise BuildError(f"the ONNX graph is inconsistent: {first_line(error)}") from error


def _shapes(model: ModelProto) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and element type by tensor; a dimension that inference leaves open counts as 1."""
    found = {weight.name: (tuple(weight.dims), weight.data_type) for weight in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        tensor = value.type.tensor_type
        found[value.name] = tuple(max(1, dim.dim_value) for dim in tensor.shape.dim), tensor.elem_type
    return found


def _macs(node: NodeProto, shapes: Shapes) -> int:
    """Multiply-accumulates of a convolution, a matrix product or attention, which are two products; 0 for other nodes."""
    if node.op_type not in (*network.WEIGHTED, "Attention") or node.output[0] not in shapes:
        return 0
    made, (weight, _) = math.prod(shapes[node.output[0]][0]), shapes[node.input[1]]
    if node.op_type == "Attention":
        return (math.prod(shapes[node.input[0]][0]) + made) * weight[-2]
    if node.op_type == "Conv":
        return made * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(shapes[node.input[0]][0]) * math.prod(weight[1:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return made * (weight[-1] if transposed else weight[-2] if len(weight) > 1 else weight[0])


def _peak(model: ModelProto, shapes: Shapes) -> int:
    weights = {weight.name for weight in model.graph.initializer}
    nodes = list(model.graph.node)
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in network.inputs(node):
            readers.setdefault(name, []).append(index)
    last = {name: places[-1] for name, places in readers.items()}
    last |= dict.fromkeys((value.name for value in model.graph.output), len(nodes))
    made = {name: node.op_type for node in nodes for name in node.output}
    for node in reversed(nodes):  # a tensor lives until its DequantizeLinear is read
        if node.op_type == "DequantizeLinear":
            last[node.input[0]] = max(last.get(node.input[0], 0), last.get(node.output[0], 0))
    ends: dict[int, int] = {}
    alive = peak = sum(_bytes(value.name, shapes) for value in model.graph.input)
    for value in model.graph.input:
        ends[last.get(value.name, 0)] = ends.get(last.get(value.name, 0), 0) + _bytes(value.name, shapes)
    for index, node in enumerate(nodes):
        for name in node.output:
            rounded = {nodes[reader].op_type for reader in readers.get(name, ())} == {"QuantizeLinear"}
            if name in weights or rounded or made.get(name) == "DequantizeLinear":
                continue
            alive += _bytes(name, shapes)
            end = last.get(name, index)
            ends[end] = ends.get(end, 0) + _bytes(name, shapes)
        peak = max(peak, alive)
        alive -= ends.get(index, 0)
    return peak


def _bytes(name: str, shapes: Shapes) -> int:
    return _size(*shapes[name]) if name in shapes else 0


def _size(dims: tuple[int, ...] | list[int], kind: int) -> int:
    return math.prod(dims) * _BYTES.get(kind, 4)
