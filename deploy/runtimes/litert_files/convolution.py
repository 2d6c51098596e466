"""The rule for convolutions, in floats and in bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from deploy.runtimes.litert_files.convert import SAME, VALID, Attributes, ByteWeight, Converter
from deploy.runtimes.litert_files.flat import ByteScale
from deploy.runtimes.litert_files.int8 import after

Array = NDArray[Any]


def conv(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Conv over images, also grouped; in bytes if what it reads, its weight and its result are rounded."""
    weight, groups = own.constants[node.input[1]], given.get("group", 1)
    channels = own.shapes[node.input[0]][1]
    deep = groups == channels and groups > 1
    merged, in_bytes = after(own, node), own.weights.get(node.input[1])
    is_rounded = merged is not None and in_bytes is not None and own.rounded(node.input[0]) is not None
    source = own.channels_last(node.input[0], as_stored=is_rounded)
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    pads, kernel = given.get("pads", [0] * 4), weight.shape[2:]
    is_same = _keeps_size(kernel, strides, dilations, pads)
    if not is_same:
        source = own.padded(source, pads, None, node.output[0])
    how: dict[str, Any] = {"padding": SAME if is_same else VALID, "strideH": strides[0], "strideW": strides[1]}
    how |= {"dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}
    bias = own.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    shape, name = own.last_shape(node.output[0]), node.output[0]
    if is_rounded and merged is not None and in_bytes is not None:
        name = merged.name
        inputs = [source, *_bytes(own, node, in_bytes, bias, deep=deep)]
        made = own.flat.tensor(name, shape, rounding=merged.rounding)
        how["fusedActivationFunction"] = merged.activation
    else:
        inputs = [source, own.weight(node.input[1], _arranged(weight, deep=deep))]
        inputs.append(own.flat.tensor(f"{name}/bias", bias.shape, bias.astype(np.float32)))
        made = own.flat.tensor(name, shape)
    if deep:
        own.flat.operator("DEPTHWISE_CONV_2D", inputs, made, "DepthwiseConv2DOptions", depthMultiplier=len(weight) // groups, **how)
    else:
        own.flat.operator("CONV_2D", inputs, made, "Conv2DOptions", **how)
    own.put(name, made, last=True)


def _keeps_size(kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]) -> bool:
    """Whether TFLite's own padding does the same; where strides are above 1, it pads other sides."""
    same = [(size - 1) * apart // 2 for size, apart in zip(kernel, dilations, strict=True)]
    return list(strides) == [1, 1] and list(pads) == [*same, *same] and all(size % 2 for size in kernel)


def _arranged(weight: Array, *, deep: bool) -> Array:
    """A weight [out, in, height, width] as TFLite has it."""
    if deep:
        return weight.transpose(1, 2, 3, 0).reshape(1, *weight.shape[2:], -1)
    return weight.transpose(0, 2, 3, 1)


def _bytes(own: Converter, node: NodeProto, weight: ByteWeight, bias: Array, *, deep: bool) -> list[int]:
    """Weight and bias of a convolution in bytes; the bias has the products' scale."""
    place = own.rounded(node.input[0])
    assert place is not None, "the caller has seen it"
    source = own.flat.roundings[place[0]]
    assert source is not None, "what is rounded has a rounding"
    scales = np.broadcast_to(np.array(weight.rounding.scales, np.float64), (len(bias),))
    zeros = (0,) * len(bias)
    own_rounding = ByteScale(tuple(scales.tolist()), zeros, axis=3 if deep else 0)
    arranged = _arranged(weight.values, deep=deep)
    steps = np.float64(source.scales[0]) * scales
    sums = np.clip(np.rint(bias.astype(np.float64) / steps), -(2**31), 2**31 - 1).astype(np.int32)
    name = node.output[0]
    return [
        own.flat.tensor(f"{name}/weight", arranged.shape, arranged, own_rounding),
        own.flat.tensor(f"{name}/bias", bias.shape, sums, ByteScale(tuple(steps.tolist()), zeros)),
    ]
