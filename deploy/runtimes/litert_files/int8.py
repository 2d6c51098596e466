"""Rules for rounding: TFLite keeps bytes with their scale, where ONNX has QuantizeLinear and DequantizeLinear around floats.

Bytes are signed in TFLite; those of the graph are unsigned, which is the same with both byte and zero point less 128.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from deploy.errors import BuildError
from deploy.runtimes.litert_files.convert import Attributes, ByteWeight, Converter, Rule
from deploy.runtimes.litert_files.flat import ByteScale

Array = NDArray[Any]
_NONE, _RELU = 0, 1


class MergedRounding(NamedTuple):
    """What is merged into an operator: a rounding, and maybe an activation before; `name` is the tensor that is rounded."""

    rounding: ByteScale
    activation: int
    name: str


def after(own: Converter, node: NodeProto) -> MergedRounding | None:
    """The rounding that nothing but comes after a node, or after its ReLU; None without one."""
    name, activation = node.output[0], _NONE
    reader = _only_reader(own, name)
    if reader is not None and reader.op_type == "Relu":
        name, activation = reader.output[0], _RELU
        reader = _only_reader(own, name)
    if reader is None or reader.op_type != "QuantizeLinear":
        return None
    return MergedRounding(_rounding(own, reader), activation, name)


def _only_reader(own: Converter, name: str) -> NodeProto | None:
    readers = own.readers.get(name, [])
    is_output = any(value.name == name for value in own.graph.output)
    return readers[0] if len(readers) == 1 and not is_output else None


def quantize(own: Converter, node: NodeProto, given: Attributes) -> None:
    """QuantizeLinear: nothing, if the tensor is in these bytes already."""
    wanted = _rounding(own, node)
    source, last = own.stored(node.input[0])
    if own.flat.roundings[source] != wanted:
        made = own.flat.tensor(node.output[0], own.flat.shapes[source], rounding=wanted)
        source = own.flat.operator("QUANTIZE", [source], made, "QuantizeOptions")
    own.put(node.output[0], source, last=last)


def dequantize(own: Converter, node: NodeProto, given: Attributes) -> None:
    """DequantizeLinear: of a constant, its floats; of a tensor, nothing: whoever needs floats asks for them."""
    name, made = node.input[0], node.output[0]
    if name not in own.constants:
        source, last = own.stored(name)
        own.put(made, source, last=last)
        return
    values, scale, zero = own.constants[name], own.constants[node.input[1]], _zero(own, node)
    shape = [1] * values.ndim
    if scale.ndim:
        shape[given.get("axis", 1)] = -1
    own.constants[made] = (values.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)
    if values.dtype == np.int8 and not zero.any() and given.get("axis", 0) == 0:
        own.weights[made] = ByteWeight(values, ByteScale(tuple(scale.reshape(-1).tolist()), (0,)))


def add(floats: Rule) -> Rule:
    """Add in bytes if both sides and the result are rounded, otherwise by the rule for floats."""

    def rule(own: Converter, node: NodeProto, given: Attributes) -> None:
        merged = after(own, node)
        sides = [own.rounded(name) for name in node.input]
        if merged is None or None in sides:
            floats(own, node, given)
            return
        last = any(side[1] for side in sides if side is not None)
        inputs = [(own.channels_last if last else own.plain)(name, as_stored=True) for name in node.input]
        shape = own.last_shape(node.output[0]) if last else own.shapes[node.output[0]]
        made = own.flat.tensor(merged.name, shape, rounding=merged.rounding)
        own.flat.operator("ADD", inputs, made, "AddOptions", fusedActivationFunction=merged.activation)
        own.put(merged.name, made, last=last)

    return rule


def _zero(own: Converter, node: NodeProto) -> Array:
    scale = own.constants[node.input[1]]
    return own.constants[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape, np.uint8)


def _rounding(own: Converter, node: NodeProto) -> ByteScale:
    """A tensor's rounding, with signed bytes."""
    scale, zero = own.constants[node.input[1]], _zero(own, node)
    if scale.size != 1 or zero.dtype not in (np.uint8, np.int8):
        raise BuildError(f"litert: {node.name} rounds to {zero.dtype} by {scale.size} scales, which is not converted; build int8 again")
    shift = 128 if zero.dtype == np.uint8 else 0
    return ByteScale((float(scale.reshape(-1)[0]),), (int(zero.reshape(-1)[0]) - shift,))
