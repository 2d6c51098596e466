"""The precision of an engine, written into its ONNX graph: strongly typed runtimes have no other place for it.

ONNX Runtime's own fp16 converter is not used: with the nodes after the head outputs on its block list it still rounds what they
hand to each other, and the final boxes, through half precision.
"""

from typing import Any

import onnx
from onnx import ModelProto, TensorProto

from deploy.contract import Heads
from deploy.precision import Calibration, Precision, Quantization, Recipe, network
from deploy.precision.fp16 import to_fp16

_KINDS = {"Conv": "convolutions", "ConvTranspose": "convolutions", "Gemm": "products", "MatMul": "products"}
_LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8)


def typed(
    model: ModelProto, precision: Precision, heads: Heads, calibration: Calibration, recipe: Recipe, quantization: Quantization
) -> ModelProto:
    """The model in a target's precision.

    Raises:
        BuildError: it cannot be converted.
    """
    if precision == "fp16":
        return to_fp16(model, heads)
    if precision == "int8":
        from deploy.precision import int8  # needs ONNX Runtime's quantization, which is slow to import

        return int8.to_int8(model, heads, calibration, recipe, quantization)
    return model


def proof(model: ModelProto, heads: Heads) -> dict[str, Any]:
    """The network's convolutions and matrix products by the type they compute in, and how many tensors are not fp32 after it.

    One counts as int8 where both its factors come out of DequantizeLinear, else as what it gives. The casts at the network's own
    inputs do not count.
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
