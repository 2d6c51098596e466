"""Converts a graph of raw outputs to a TFLite file, operator by operator; channels come last inside, as TFLite wants them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from deploy.errors import BuildError
from deploy.runtimes.litert_files.flat import FlatModel

Array = NDArray[Any]
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
AXIS = {0: 0, 1: 3, 2: 1, 3: 2}
_SAME, _VALID = 0, 1
_RELU = 1


class Converter:
    """One conversion; `half`: weights are stored in fp16. `model` has fixed shapes and folded batch norms."""

    def __init__(self, model: ModelProto, rules: "Rules", *, half: bool) -> None:
        self._rules = rules
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
        self.shapes = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
        self.constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        self.graph = model.graph
        self.flat = FlatModel()
        self.half = half
        self.made: dict[str, tuple[int, bool]] = {}
        """Each tensor's index, and whether its channels come last."""

    def content(self) -> bytes:
        """The file's content.

        Raises:
            BuildError: an operator that is not converted; the message names it.
        """
        name = self.graph.input[0].name
        shape = self.shapes[name]
        first = self.flat.tensor(name, [shape[axis] for axis in _LAST])
        self.made[name] = first, True
        for node in self.graph.node:
            rule = self._rules.get(node.op_type)
            if rule is None:
                raise BuildError(f"litert: operator {node.op_type} is not converted; choose a different runtime, or a network without it")
            rule(self, node, {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute})
        outputs = [self.named(self.plain(value.name), value.name) for value in self.graph.output]
        return self.flat.content([first], outputs)

    def named(self, index: int, name: str) -> int:
        """The tensor, called as the output is."""
        self.flat.graph.tensors[index].name = name.encode()
        return index

    def weight(self, name: str, values: Array) -> int:
        """A constant of floats."""
        values = values.astype(np.float32)
        if not self.half or values.size < 8:
            return self.flat.tensor(name, values.shape, values)
        stored = self.flat.tensor(f"{name}/half", values.shape, values.astype(np.float16))
        return self.flat.operator("DEQUANTIZE", [stored], self.flat.tensor(name, values.shape), "DequantizeOptions")

    def whole(self, name: str, values: Sequence[int]) -> int:
        """A constant of whole numbers."""
        content = np.array(values, np.int32)
        return self.flat.tensor(name, content.shape, content)

    def put(self, node: NodeProto, index: int, *, last: bool) -> None:
        """Remember what a node gives."""
        self.made[node.output[0]] = index, last

    def turned(self, index: int, order: Sequence[int]) -> int:
        """A tensor with its axes in another order."""
        shape = [self.flat.shapes[index][axis] for axis in order]
        name = f"turned_{index}"
        inputs = [index, self.whole(f"{name}/order", order)]
        return self.flat.operator("TRANSPOSE", inputs, self.flat.tensor(name, shape), "TransposeOptions")

    def plain(self, name: str) -> int:
        """A tensor in ONNX's order of axes."""
        index, last = self.made[name]
        return self.turned(index, _FIRST) if last else index

    def channels_last(self, name: str) -> int:
        """A tensor of images with its channels last."""
        index, last = self.made[name]
        return index if last else self.turned(index, _LAST)

    def shaped(self, index: int, shape: Sequence[int], name: str) -> int:
        """A tensor in another shape."""
        inputs = [index, self.whole(f"{name}/shape", shape)]
        return self.flat.operator("RESHAPE", inputs, self.flat.tensor(name, shape), "ReshapeOptions", newShape=list(shape))

    def last_shape(self, name: str) -> list[int]:
        """The shape of a tensor of images with its channels last."""
        return [self.shapes[name][axis] for axis in _LAST]

    def padded(self, index: int, pads: Sequence[int], value: float | None, name: str) -> int:
        """Images with rows and columns added, of zeros or of a value."""
        top, left, bottom, right = pads
        if not any(pads):
            return index
        one, high, wide, channels = self.flat.shapes[index]
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = [index, self.flat.tensor(f"{name}/pads", amounts.shape, amounts)]
        made = self.flat.tensor(f"{name}/padded", (one, high + top + bottom, wide + left + right, channels))
        if value is None:
            return self.flat.operator("PAD", inputs, made, "PadOptions")
        inputs.append(self.flat.tensor(f"{name}/value", (1,), np.array([value], np.float32)))
        return self.flat.operator("PADV2", inputs, made, "PadV2Options")


Attributes = Mapping[str, Any]
Rule = Callable[[Converter, NodeProto, Attributes], None]
Rules = Mapping[str, Rule]


def conv(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Conv over images, also grouped."""
    weight, groups = own.constants[node.input[1]], given.get("group", 1)
    strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    pads, kernel = given.get("pads", [0] * 4), weight.shape[2:]
    same = [(size - 1) * apart // 2 for size, apart in zip(kernel, dilations, strict=True)]
    is_same = list(strides) == [1, 1] and list(pads) == [*same, *same] and all(size % 2 for size in kernel)
    source = own.channels_last(node.input[0])
    if not is_same:
        source = own.padded(source, pads, None, node.output[0])
    channels = own.shapes[node.input[0]][1]
    bias = own.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    apart = {"strideH": strides[0], "strideW": strides[1], "dilationHFactor": dilations[0], "dilationWFactor": dilations[1]}
    how = {"padding": _SAME if is_same else _VALID, **apart}
    made = own.flat.tensor(node.output[0], own.last_shape(node.output[0]))
    if groups == channels and groups > 1:
        inputs = [source, own.weight(node.input[1], weight.transpose(1, 2, 3, 0).reshape(1, *kernel, -1))]
        inputs.append(own.flat.tensor(f"{node.output[0]}/bias", bias.shape, bias.astype(np.float32)))
        own.flat.operator("DEPTHWISE_CONV_2D", inputs, made, "DepthwiseConv2DOptions", depthMultiplier=len(weight) // groups, **how)
    else:
        inputs = [source, own.weight(node.input[1], weight.transpose(0, 2, 3, 1))]
        inputs.append(own.flat.tensor(f"{node.output[0]}/bias", bias.shape, bias.astype(np.float32)))
        own.flat.operator("CONV_2D", inputs, made, "Conv2DOptions", **how)
    own.put(node, made, last=True)


def pool(own: Converter, node: NodeProto, given: Attributes) -> None:
    """MaxPool over images."""
    if given.get("ceil_mode") or list(given.get("dilations", [1, 1])) != [1, 1]:
        raise BuildError(f"litert: {node.op_type} with ceil_mode or dilations is not converted; choose a different runtime")
    source = own.padded(own.channels_last(node.input[0]), given.get("pads", [0] * 4), -3e38, node.output[0])
    strides, kernel = given.get("strides", [1, 1]), given["kernel_shape"]
    made = own.flat.tensor(node.output[0], own.last_shape(node.output[0]))
    how = {"padding": _VALID, "strideH": strides[0], "strideW": strides[1], "filterHeight": kernel[0], "filterWidth": kernel[1]}
    own.put(node, own.flat.operator("MAX_POOL_2D", [source], made, "Pool2DOptions", **how), last=True)


def unary(kind: str) -> Rule:
    """A rule for an operator of one tensor."""

    def rule(own: Converter, node: NodeProto, given: Attributes) -> None:
        source, last = own.made[node.input[0]]
        made = own.flat.tensor(node.output[0], own.flat.shapes[source])
        own.put(node, own.flat.operator(kind, [source], made), last=last)

    return rule


def binary(kind: str, options: str) -> Rule:
    """A rule for an operator of two tensors, or of one and a constant."""

    def rule(own: Converter, node: NodeProto, given: Attributes) -> None:
        last = any(own.made[name][1] for name in node.input if name in own.made)
        inputs = []
        for name in node.input:
            if name in own.constants:
                values = own.constants[name]
                inputs.append(own.weight(f"{name}/{node.output[0]}", _last(values) if last else values))
            else:
                inputs.append(own.channels_last(name) if last else own.plain(name))
        shape = own.last_shape(node.output[0]) if last else own.shapes[node.output[0]]
        made = own.flat.tensor(node.output[0], shape)
        own.put(node, own.flat.operator(kind, inputs, made, options), last=last)

    return rule


def _last(values: Array) -> Array:
    """A constant that broadcasts over images, with its channels last."""
    if values.ndim == 0:
        return values.reshape(1)
    return values.reshape((1,) * (4 - values.ndim) + values.shape).transpose(_LAST)


def reshape(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Reshape."""
    own.put(node, own.shaped(own.plain(node.input[0]), own.shapes[node.output[0]], node.output[0]), last=False)


def transpose(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Transpose."""
    own.put(node, own.turned(own.plain(node.input[0]), given["perm"]), last=False)


def concat(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Concat."""
    last = all(own.made[name][1] for name in node.input)
    shape = own.shapes[node.output[0]]
    axis = given["axis"] % len(shape)
    inputs = [own.made[name][0] if last else own.plain(name) for name in node.input]
    made = own.flat.tensor(node.output[0], own.last_shape(node.output[0]) if last else shape)
    own.put(node, own.flat.operator("CONCATENATION", inputs, made, "ConcatenationOptions", axis=AXIS[axis] if last else axis), last=last)


def resize(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Resize to the nearest row and column above and to the left."""
    mode, rule = (given.get(key, b"").decode() for key in ("mode", "coordinate_transformation_mode"))
    if mode != "nearest" or rule != "asymmetric" or given.get("nearest_mode", b"").decode() != "floor":
        raise BuildError(f"litert: Resize by {mode}, {rule} is not converted; choose a different runtime")
    shape = own.last_shape(node.output[0])
    inputs = [own.channels_last(node.input[0]), own.whole(f"{node.output[0]}/size", shape[1:3])]
    made = own.flat.tensor(node.output[0], shape)
    own.put(node, own.flat.operator("RESIZE_NEAREST_NEIGHBOR", inputs, made, "ResizeNearestNeighborOptions"), last=True)


def instance_norm(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Over all axes but the first two; group normalization is made of this and two reshapes."""
    source, name = own.plain(node.input[0]), node.output[0]
    shape = own.shapes[node.input[0]]
    axes = own.whole(f"{name}/axes", range(2, len(shape)))
    few = [*shape[:2], *[1] * (len(shape) - 2)]

    def step(kind: str, inputs: Sequence[int], size: Sequence[int], part: str, options: str = "", **more: Any) -> int:
        return own.flat.operator(kind, inputs, own.flat.tensor(f"{name}/{part}", size), options, **more)

    mean = step("MEAN", [source, axes], few, "mean", "ReducerOptions", keepDims=True)
    off = step("SUB", [source, mean], shape, "off", "SubOptions")
    squares = step("MUL", [off, off], shape, "squares", "MulOptions")
    spread = step("MEAN", [squares, axes], few, "variance", "ReducerOptions", keepDims=True)
    least = own.flat.tensor(f"{name}/epsilon", (1,), np.array([given.get("epsilon", 1e-5)], np.float32))
    root = step("RSQRT", [step("ADD", [spread, least], few, "above", "AddOptions")], few, "root")
    found = step("MUL", [off, root], shape, "normed", "MulOptions")
    scale, shift = (own.weight(f"{name}/{key}", own.constants[key].reshape(1, -1, *few[2:])) for key in node.input[1:3])
    found = step("MUL", [found, scale], shape, "scaled", "MulOptions")
    own.put(node, step("ADD", [found, shift], shape, "shifted", "AddOptions"), last=False)
