"""A graph of raw outputs made plain for converters to other formats: one image, one float type."""

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

_SORTING = ("TopK", "NonMaxSuppression", "NonZero", "GatherElements", "GatherND", "ScatterND")


def sorting(model: ModelProto) -> str:
    """The operators of a graph that sort and choose boxes, in words for a message; empty if it has none."""
    kinds = {node.op_type for node in model.graph.node}
    found = [kind for kind in _SORTING if kind in kinds]
    return f" ({', '.join(found)})" if found else ""


def fix_batch(model: ModelProto) -> tuple[int, int, int]:
    """Fix the batch at one image; returns the image's shape."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].ClearField("dim_param")
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    channels, height, width = (int(one.dim_value) for one in dims[1:])
    return channels, height, width


def to_float(model: ModelProto) -> None:
    """Declare as float whatever is fp16; weights keep their rounded values, which fp16 can store."""
    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT16:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32), attribute.t.name))
    _without_casts(model)


def _without_casts(model: ModelProto) -> None:
    """Remove casts from float to float, except those that make an output."""
    outputs = {value.name for value in model.graph.output}
    same: dict[str, str] = {}
    kept = []
    for node in model.graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
        if node.op_type == "Cast" and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        elif node.op_type == "Cast":
            kept.append(onnx.helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name))
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(_renamed(kept, outputs))


def _renamed(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Without the identities that make outputs: what they read is given the outputs' names."""
    names = {node.input[0]: node.output[0] for node in nodes if node.op_type == "Identity" and node.output[0] in outputs}
    rest = [node for node in nodes if not (node.op_type == "Identity" and node.output[0] in outputs)]
    for node in rest:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return rest
