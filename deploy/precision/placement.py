"""Where int8 rounds, and how: read from the graph that was written, so that a training rounds at the same places.

Tensors are named as in the graph before it was quantized, with its batch norms folded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from deploy.precision import Batch, network

Array = NDArray[np.float32]
_SUFFIX = "_quantized"


@dataclass(frozen=True)
class Step:
    """A value becomes scale * (min(high, max(low, round(value / scale) + zero_point)) - zero_point)."""

    scale: float
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True)
class RoundedLayer:
    """A convolution or matrix product with a rounded weight: the tensor that it reads, its weight and the weight's axis of channels.

    `bias` is None without one; `rounds_bias`: whether it is rounded, too.
    """

    name: str
    reads: str
    weight: str
    axis: int
    bias: str | None
    rounds_bias: bool


@dataclass(frozen=True)
class RoundingTable:
    """The rounding of each tensor, in graph order, with the operator that produces it, "" for the images; and all layers in graph order."""

    steps: Mapping[str, Step]
    producers: Mapping[str, str]
    layers: tuple[RoundedLayer, ...]


def read(quantized: ModelProto, model: ModelProto) -> RoundingTable:
    """The placement in a quantized graph that was made of `model`."""
    weights = {one.name: one for one in quantized.graph.initializer}
    producer = {name: node for node in quantized.graph.node for name in node.output}
    rounding = [node for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    steps = {node.input[0]: _step(*(numpy_helper.to_array(weights[name]) for name in node.input[1:3])) for node in rounding}
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    own = {node.name: node for node in model.graph.node}
    layers = []
    for node in quantized.graph.node:
        dequantized = [producer[name] for name in node.input if name in producer and producer[name].op_type == "DequantizeLinear"]
        weight = next((one for one in dequantized if one.input[0] in weights and one.output[0] == node.input[1]), None)
        if node.op_type not in network.WEIGHTED or weight is None or node.name not in own:
            continue
        before = own[node.name]
        axis = next((int(one.i) for one in weight.attribute if one.name == "axis"), 0)
        bias = before.input[2] if len(before.input) > 2 else None
        rounds = bias is not None and producer.get(node.input[2]) is not None
        layers.append(RoundedLayer(node.name, before.input[0], weight.input[0].removesuffix(_SUFFIX), axis, bias, rounds))
    order = {name: index for index, name in enumerate(made)}
    ordered = dict(sorted(steps.items(), key=lambda item: order.get(item[0], -1)))
    return RoundingTable(ordered, {name: made.get(name, "") for name in ordered}, tuple(layers))


def rounded_values(quantized: ModelProto, images: Batch) -> dict[str, Array]:
    """The tensors that a quantized graph rounds, after their rounding, by the names that they have before it."""
    nodes = quantized.graph.node
    after = {node.input[0]: node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    names = {node.input[0]: after[node.output[0]] for node in nodes if node.op_type == "QuantizeLinear"}
    found = values(quantized, list(names.values()), images)
    return {name: found[own] for name, own in names.items()}


def _step(scale: NDArray[Any], zero: NDArray[Any]) -> Step:
    limits = np.iinfo(zero.dtype)
    return Step(float(scale), int(zero), int(limits.min), int(limits.max))


def values(model: ModelProto, names: Sequence[str], images: Batch) -> dict[str, Array]:
    """The graph's tensors of these names for images [B, 3, H, W], computed by ONNX Runtime node by node as written."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    computed = [name for name in dict.fromkeys(names) if name != "images"]
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(computed, session.run(computed, {"images": images}), strict=True)) | {"images": images}
