"""The precision of an engine, written into its ONNX graph: strongly typed runtimes have no other place for it.

ONNX Runtime's own fp16 converter is not used: with the nodes after the head outputs on its block list it still rounds what they
hand to each other, and the final boxes, through half precision.
"""

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploy import graph
from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.runtimes import Calibration, Precision, Quantization, Recipe

HALF_MAX = float(np.finfo(np.float16).max)
_KINDS = {"Conv": "convolutions", "ConvTranspose": "convolutions", "Gemm": "products", "MatMul": "products"}
_LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8)
# Inputs whose type ONNX fixes to float32.
_ALWAYS_FLOAT = {"Resize": (1, 2), "Upsample": (1,)}
# Operators that ONNX does not define in half precision.
_FLOAT_ONLY = ("Range",)
# Operators that choose their output's type by an attribute.
_TYPED = {"Cast": "to", "EyeLike": "dtype", "RandomNormalLike": "dtype", "RandomUniformLike": "dtype"}


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
        from deploy import quantize  # needs ONNX Runtime's quantization, which is slow to import

        return quantize.to_int8(model, heads, calibration, recipe, quantization)
    return model


def to_fp16(model: ModelProto, heads: Heads) -> ModelProto:
    """The model with its network in half precision and everything else, inputs and outputs included, in fp32.

    Raises:
        BuildError: a weight leaves the range of half precision, or the network holds control flow.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    float_only = {node.name for node in half.graph.node if node.op_type in _FLOAT_ONLY}
    nodes = graph.network(half, heads) - float_only
    floats = graph.float_tensors(half)
    del half.graph.value_info[:]  # its types are no longer true
    weights = _Weights(half)
    casts = _Casts({name for node in half.graph.node if node.name in nodes for name in node.output}, floats)
    typed: list[NodeProto] = []
    for node in half.graph.node:
        in_network = node.name in nodes
        if in_network:
            _retype(node)
        for index, name in enumerate(node.input):
            wants_half = in_network and index not in _ALWAYS_FLOAT.get(node.op_type, ())
            if name in weights.floats:
                node.input[index] = weights.half(name) if wants_half else name
            elif name in floats:
                node.input[index] = casts.typed(name, wants_half, typed)
        typed.append(node)
    _restore_outputs(half, casts, typed)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in typed]
    del half.graph.node[:]
    half.graph.node.extend(kept)
    weights.prune()
    check(half)
    return half


def check(model: ModelProto) -> None:
    """Refuse a graph that ONNX calls invalid.

    Raises:
        BuildError: with ONNX's reason.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise BuildError(f"the converted graph is invalid: {graph.first_line(error)}") from error


def proof(model: ModelProto, heads: Heads) -> dict[str, Any]:
    """The network's convolutions and matrix products by the type they compute in, and how many tensors are not fp32 after it.

    One counts as int8 where both its factors come out of DequantizeLinear, else as what it gives. The casts at the network's own
    inputs do not count.
    """
    nodes = graph.network(model, heads)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.graph.value_info, *inferred.graph.output)}
    producer = {name: node.op_type for node in model.graph.node for name in node.output}
    counts = {f"{kind}_{name}": 0 for kind in dict.fromkeys(_KINDS.values()) for name in ("fp32", "fp16", "int8")}
    low_after = 0
    for node in model.graph.node:
        if node.name not in nodes:
            low_after += sum(types.get(name) in _LOW for name in node.output)
        elif node.op_type in graph.WEIGHTED:
            if all(producer.get(name) == "DequantizeLinear" for name in node.input[:2]):
                name = "int8"
            else:
                name = "fp16" if types.get(node.output[0]) == TensorProto.FLOAT16 else "fp32"
            counts[f"{_KINDS[node.op_type]}_{name}"] += 1
    return {**counts, "low_precision_after_head": low_after}


class _Weights:
    """Float initializers; a half copy beside one that fp32 nodes read too."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.floats = {weight.name: weight for weight in model.graph.initializer if weight.data_type == TensorProto.FLOAT}
        self.halves: dict[str, str] = {}

    def half(self, name: str) -> str:
        if name not in self.halves:
            self.halves[name] = f"{name}_fp16"
            values = _half(numpy_helper.to_array(self.floats[name]), name)
            self.graph.initializer.append(numpy_helper.from_array(values, self.halves[name]))
        return self.halves[name]

    def prune(self) -> None:
        """Drop what no node reads any more."""
        read = {name for node in self.graph.node for name in graph.inputs(node)} | {value.name for value in self.graph.output}
        kept = [weight for weight in self.graph.initializer if weight.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


class _Casts:
    """One cast for each float tensor that crosses the network's border."""

    def __init__(self, in_half: set[str], floats: set[str]) -> None:
        self.in_half = in_half & floats
        self.made: dict[tuple[str, bool], str] = {}

    def typed(self, name: str, half: bool, nodes: list[NodeProto]) -> str:
        """The tensor in the wanted type; where a cast is needed it is appended to `nodes`."""
        if (name in self.in_half) == half:
            return name
        if (name, half) not in self.made:
            cast = f"{name}_{'fp16' if half else 'fp32'}"
            to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            nodes.append(helper.make_node("Cast", [name], [cast], name=f"Cast_{cast}", to=to))
            self.made[name, half] = cast
        return self.made[name, half]


def _retype(node: NodeProto) -> None:
    """Turn the node's own float constants and output types into half."""
    for attribute in node.attribute:
        if attribute.g.node or attribute.graphs:
            raise BuildError(f"{node.op_type} '{node.name}': control flow in the network cannot be converted to fp16")
        if attribute.t.data_type == TensorProto.FLOAT:
            values = _half(numpy_helper.to_array(attribute.t), node.name)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
        if attribute.name == _TYPED.get(node.op_type) and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
    if node.op_type == "Constant" and any(a.name in ("value_float", "value_floats") for a in node.attribute):
        value = node.attribute[0]
        values = _half(np.array(value.f if value.name == "value_float" else list(value.floats), np.float32), node.name)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(values)))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float16))))


def _half(values: Any, name: str) -> Any:
    """Infinities stay, as masks mean them; finite values must stay finite."""
    finite = np.abs(values[np.isfinite(values)])
    if finite.size and finite.max() > HALF_MAX:
        raise BuildError(f"'{name}' holds {finite.max():g}, above half precision's {HALF_MAX:g}; choose precision fp32 or int8")
    return values.astype(np.float16)


def _restore_outputs(model: ModelProto, casts: _Casts, nodes: list[NodeProto]) -> None:
    """Give graph outputs made in half precision their fp32 type back, by name."""
    for output in model.graph.output:
        if output.name not in casts.in_half:
            continue
        inner = f"{output.name}_in_fp16"
        for node in nodes:
            node.output[:] = [inner if name == output.name else name for name in node.output]
            node.input[:] = [inner if name == output.name else name for name in node.input]
        nodes.append(helper.make_node("Cast", [inner], [output.name], name=f"Cast_{output.name}", to=TensorProto.FLOAT))
