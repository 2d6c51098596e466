"""Converting a graph to half precision.

ONNX Runtime's own fp16 converter is not used: even with the nodes after the head outputs on its block list, it rounds the tensors
between them, and the final boxes, to half precision.
"""

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.precision import network
from deploy.precision.network import check

HALF_MAX = float(np.finfo(np.float16).max)


# Inputs whose type ONNX fixes to float32.
_ALWAYS_FLOAT = {"Resize": (1, 2), "Upsample": (1,)}


_SQUARED = ("Pow", "ReduceMean", "ReduceSum", "Add", "Sqrt")
"""From a square to its root, as in RMS normalization: in half precision the square of 256 is infinite."""


# Operators that choose their output's type by an attribute.
_TYPED = {"Cast": "to", "EyeLike": "dtype", "RandomNormalLike": "dtype", "RandomUniformLike": "dtype"}


def to_fp16(model: ModelProto, heads: Heads) -> ModelProto:
    """The model with its network in half precision and everything else, inputs, outputs and sums of squares included, in fp32.

    Raises:
        BuildError: a weight exceeds the range of half precision, or the network contains control flow.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    nodes = network.network(half, heads)  # names all nodes
    nodes -= _float_only(half)
    floats = network.float_tensors(half)
    del half.graph.value_info[:]  # its types are no longer correct
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


def _float_only(model: ModelProto) -> set[str]:
    """The nodes that stay fp32 within the network: Range, which ONNX does not define in half precision, and sums of squares."""
    found, squares = set(), set[str]()
    for node in model.graph.node:
        if node.op_type in ("Range", "Pow") or (node.op_type in _SQUARED and squares.intersection(node.input)):
            found.add(node.name)
            squares.update(node.output if node.op_type in _SQUARED[:-1] else ())
    return found


class _Weights:
    """Float initializers, each with an fp16 copy if the network reads it; `prune` drops originals that no fp32 node reads."""

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
        """Drop weights that no node reads any more."""
        read = {name for node in self.graph.node for name in network.inputs(node)} | {value.name for value in self.graph.output}
        kept = [weight for weight in self.graph.initializer if weight.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


class _Casts:
    """One cast for each float tensor that crosses the network's boundary."""

    def __init__(self, in_half: set[str], floats: set[str]) -> None:
        self.in_half = in_half & floats
        self.made: dict[tuple[str, bool], str] = {}

    def typed(self, name: str, half: bool, nodes: list[NodeProto]) -> str:
        """The tensor in the wanted type; if a cast is needed, it is appended to `nodes`."""
        if (name in self.in_half) == half:
            return name
        if (name, half) not in self.made:
            cast = f"{name}_{'fp16' if half else 'fp32'}"
            to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
            nodes.append(helper.make_node("Cast", [name], [cast], name=f"Cast_{cast}", to=to))
            self.made[name, half] = cast
        return self.made[name, half]


def _retype(node: NodeProto) -> None:
    """Convert the node's own float constants and output types to fp16."""
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
    """The values in fp16. Infinities are kept, because masks need them; finite values must stay finite."""
    finite = np.abs(values[np.isfinite(values)])
    if finite.size and finite.max() > HALF_MAX:
        raise BuildError(f"'{name}' holds {finite.max():g}, above half precision's {HALF_MAX:g}; choose precision fp32 or int8")
    return values.astype(np.float16)


def _restore_outputs(model: ModelProto, casts: _Casts, nodes: list[NodeProto]) -> None:
    """Cast graph outputs computed in half precision back to fp32 under their original names."""
    for output in model.graph.output:
        if output.name not in casts.in_half:
            continue
        inner = f"{output.name}_in_fp16"
        for node in nodes:
            node.output[:] = [inner if name == output.name else name for name in node.output]
            node.input[:] = [inner if name == output.name else name for name in node.input]
        nodes.append(helper.make_node("Cast", [inner], [output.name], name=f"Cast_{output.name}", to=TensorProto.FLOAT))
