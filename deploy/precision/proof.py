"""Evidence of a typed graph's precision."""

from typing import Any

import onnx
from onnx import ModelProto, TensorProto

from deploy.contract import Heads
from deploy.precision import network

_KINDS = {"Conv": "convolutions", "ConvTranspose": "convolutions", "Gemm": "products", "MatMul": "products"}
_LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8)


def proof(model: ModelProto, heads: Heads) -> dict[str, Any]:
    """Number of the network's convolutions and matrix products per computation type, and of tensors after it that are not fp32.

    A node counts as int8 if both its factors come from DequantizeLinear, otherwise as the type of its output. Casts at the
    network's own inputs do not count.
    """
    nodes = network.network(model, heads)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.graph.value_info, *inferred.graph.output)}
    producer = {name: node.op_type for node in model.graph.node for name in node.output}
    counts = {f"{kind}_{name}": 0 for kind in dict.fromkeys(_KINDS.values()) for name in ("fp32", "fp16", "int8")}
    low_after = 0
    for node in model.graph.node:
        if node.name not in nodes:
            low_after += sum(types.get(name) in _LOW for name in node.output)
        elif node.op_type in network.WEIGHTED:
            if all(producer.get(name) == "DequantizeLinear" for name in node.input[:2]):
                name = "int8"
            else:
                name = "fp16" if types.get(node.output[0]) == TensorProto.FLOAT16 else "fp32"
            counts[f"{_KINDS[node.op_type]}_{name}"] += 1
    return {**counts, "low_precision_after_head": low_after}
