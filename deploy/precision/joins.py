"""Sums and concatenations of features in int8, so that a runtime that fuses a convolution with a sum reads and writes bytes.

A sum in a residual block is fused with the convolution before it, which writes no rounded output; only the other side is rounded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization.quant_utils import compute_scale_zp, get_qmin_qmax_for_qType

from deploy.contract import Heads
from deploy.precision import Ranges, Recipe, network

KINDS = ("Add", "Concat")


@dataclass(frozen=True)
class Join:
    """A sum or concatenation: the tensors that are rounded before it, and the layers that all its inputs come from."""

    tensors: tuple[str, ...]
    layers: frozenset[str]


def find(model: ModelProto, heads: Heads, owners: Mapping[str, str]) -> tuple[Join, ...]:
    """The joins of the network, in graph order; `owners` has the layer that each tensor comes from."""
    nodes = network.network(model, heads)
    producer = {name: node for node in model.graph.node for name in node.output}
    readers = _readers(model)
    found = []
    for node in model.graph.node:
        joined = [name for name in dict.fromkeys(node.input) if name in owners]
        if node.name not in nodes or node.op_type not in KINDS or len(joined) < 2:
            continue
        fused = [name for name in joined if producer[name].op_type in network.WEIGHTED and len(readers[name]) == 1]
        kept = fused[:1] if node.op_type == "Add" else []
        tensors = tuple(name for name in joined if name not in (*kept, *heads.outputs))
        found.append(Join(tensors, frozenset(owners[name] for name in joined)))
    return tuple(found)


def quantize(model: ModelProto, joins: Sequence[Join], ranges: Ranges, recipe: Recipe) -> ModelProto:
    """The graph with the joins' tensors rounded, for all their readers; those that are rounded already stay as they are."""
    readers = _readers(model)
    rounded = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    wanted = [name for name in dict.fromkeys(name for join in joins for name in join.tensors) if name in readers and name not in rounded]
    after: dict[str, list[NodeProto]] = {}
    for name in wanted:
        after[name] = _rounding(model, name, ranges[name], recipe)
        for node in readers[name]:
            node.input[:] = [after[name][1].output[0] if one == name else one for one in node.input]
    nodes = [step for node in model.graph.node for step in (node, *(one for name in node.output for one in after.get(name, ())))]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _readers(model: ModelProto) -> dict[str, list[NodeProto]]:
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def _rounding(model: ModelProto, name: str, ends: tuple[float, float], recipe: Recipe) -> list[NodeProto]:
    """Nodes that round a tensor, named as ONNX Runtime names them; their scale and zero point are added to the graph."""
    kind = TensorProto.INT8 if recipe.signed_activations else TensorProto.UINT8
    limits = get_qmin_qmax_for_qType(kind, symmetric=recipe.signed_activations)
    zero, scale = compute_scale_zp(*(np.array(end, np.float32) for end in ends), *limits, recipe.signed_activations)
    given = {f"{name}_scale": np.float32(scale), f"{name}_zero_point": zero}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), key) for key, value in given.items())
    inner, outer = f"{name}_QuantizeLinear_Output", f"{name}_DequantizeLinear_Output"
    return [
        helper.make_node("QuantizeLinear", [name, *given], [inner], name=f"{name}_QuantizeLinear"),
        helper.make_node("DequantizeLinear", [inner, *given], [outer], name=f"{name}_DequantizeLinear"),
    ]
