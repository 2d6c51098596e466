"""Converts a graph of raw outputs to a TFLite file, operator by operator; channels come last inside, as TFLite wants them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from deploy.errors import BuildError
from deploy.runtimes.litert_files.flat import LOWEST, ByteScale, FlatModel

Array = NDArray[Any]
_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
AXIS = {0: 0, 1: 3, 2: 1, 3: 2}
SAME, VALID = 0, 1
_SHAPED = ("Reshape", "Resize")
"""Operators whose further inputs are shapes."""

Place = tuple[int, bool]
"""A tensor's index, and whether its channels come last."""


@dataclass(frozen=True)
class ByteWeight:
    """A constant in bytes or in sums of them, and its rounding."""

    values: Array
    rounding: ByteScale


class Converter:
    """One conversion; `half`: weights are stored in fp16. `model` has fixed shapes and folded batch norms."""

    def __init__(self, model: ModelProto, rules: "Rules", *, half: bool) -> None:
        self._rules = rules
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        values = [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]
        self.shapes = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
        self.constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
        self.weights: dict[str, ByteWeight] = {}
        """Constants that were rounded, by the name of what they stand for."""
        self.graph = model.graph
        self.readers = _readers(model)
        self.flat = FlatModel()
        self.half = half
        self._made: dict[str, Place] = {}
        self._rounded: dict[str, Place] = {}

    def content(self) -> bytes:
        """The file's content.

        Raises:
            BuildError: an operator that is not converted; the message names it.
        """
        name = self.graph.input[0].name
        shape = self.shapes[name]
        first = self.flat.tensor(name, [shape[axis] for axis in _LAST])
        self._made[name] = first, True
        needed = _needed(self.graph)
        for node in self.graph.node:
            if node.name not in needed or node.output[0] in self._rounded:
                continue  # only tells a shape, or is merged into what it reads
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

    def put(self, name: str, index: int, *, last: bool) -> None:
        """Remember what a node gives, in floats or rounded."""
        (self._made if self.flat.roundings[index] is None else self._rounded)[name] = index, last

    def floats(self, name: str) -> Place:
        """A tensor in floats; one that is rounded is brought back once."""
        if name not in self._made:
            index, last = self._rounded[name]
            made = self.flat.tensor(f"{name}/floats", self.flat.shapes[index])
            self._made[name] = self.flat.operator("DEQUANTIZE", [index], made, "DequantizeOptions"), last
        return self._made[name]

    def rounded(self, name: str) -> Place | None:
        """A tensor in bytes; None if it is not rounded."""
        return self._rounded.get(name)

    def stored(self, name: str) -> Place:
        """A tensor in bytes if it is rounded, otherwise in floats: for operators that only move values."""
        return self._rounded.get(name) or self.floats(name)

    def turned(self, index: int, order: Sequence[int]) -> int:
        """A tensor with its axes in another order."""
        shape = [self.flat.shapes[index][axis] for axis in order]
        name = f"turned_{index}"
        inputs = [index, self.whole(f"{name}/order", order)]
        return self.flat.operator("TRANSPOSE", inputs, self.flat.like(index, name, shape), "TransposeOptions")

    def plain(self, name: str, *, as_stored: bool = False) -> int:
        """A tensor in ONNX's order of axes, in floats unless it may be as it is stored."""
        index, last = self.stored(name) if as_stored else self.floats(name)
        return self.turned(index, _FIRST) if last else index

    def channels_last(self, name: str, *, as_stored: bool = False) -> int:
        """A tensor of images with its channels last, in floats unless it may be as it is stored."""
        index, last = self.stored(name) if as_stored else self.floats(name)
        return index if last else self.turned(index, _LAST)

    def shaped(self, index: int, shape: Sequence[int], name: str) -> int:
        """A tensor in another shape."""
        inputs = [index, self.whole(f"{name}/shape", shape)]
        return self.flat.operator("RESHAPE", inputs, self.flat.like(index, name, shape), "ReshapeOptions", newShape=list(shape))

    def last_shape(self, name: str) -> list[int]:
        """The shape of a tensor of images with its channels last."""
        return [self.shapes[name][axis] for axis in _LAST]

    def padded(self, index: int, pads: Sequence[int], value: float | None, name: str) -> int:
        """Images with rows and columns added, of zeros or of a value, which is the lowest byte if they are rounded."""
        top, left, bottom, right = pads
        if not any(pads):
            return index
        one, high, wide, channels = self.flat.shapes[index]
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = [index, self.flat.tensor(f"{name}/pads", amounts.shape, amounts)]
        made = self.flat.like(index, f"{name}/padded", (one, high + top + bottom, wide + left + right, channels))
        rounding = self.flat.roundings[index]
        if value is None or (rounding is not None and rounding.zeros == (LOWEST,)):
            return self.flat.operator("PAD", inputs, made, "PadOptions")
        content = np.array([value], np.float32) if rounding is None else np.array([LOWEST], np.int8)
        inputs.append(self.flat.tensor(f"{name}/value", (1,), content, rounding))
        return self.flat.operator("PADV2", inputs, made, "PadV2Options")


def _needed(graph: GraphProto) -> set[str]:
    """The names of the nodes whose values outputs depend on; shapes are known, so what computes them is not needed."""
    wanted, found = {value.name for value in graph.output}, set()
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            found.add(node.name)
            wanted.update(node.input[:1] if node.op_type in _SHAPED else node.input)
    return found


def _readers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each tensor."""
    found: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


Attributes = Mapping[str, Any]
Rule = Callable[[Converter, NodeProto, Attributes], None]
Rules = Mapping[str, Rule]


def pool(own: Converter, node: NodeProto, given: Attributes) -> None:
    """MaxPool over images."""
    if given.get("ceil_mode") or list(given.get("dilations", [1, 1])) != [1, 1]:
        raise BuildError(f"litert: {node.op_type} with ceil_mode or dilations is not converted; choose a different runtime")
    source = own.padded(own.channels_last(node.input[0], as_stored=True), given.get("pads", [0] * 4), -3e38, node.output[0])
    strides, kernel = given.get("strides", [1, 1]), given["kernel_shape"]
    made = own.flat.like(source, node.output[0], own.last_shape(node.output[0]))
    how = {"padding": VALID, "strideH": strides[0], "strideW": strides[1], "filterHeight": kernel[0], "filterWidth": kernel[1]}
    own.put(node.output[0], own.flat.operator("MAX_POOL_2D", [source], made, "Pool2DOptions", **how), last=True)


def unary(kind: str) -> Rule:
    """A rule for an operator of one tensor."""

    def rule(own: Converter, node: NodeProto, given: Attributes) -> None:
        source, last = own.floats(node.input[0])
        made = own.flat.tensor(node.output[0], own.flat.shapes[source])
        own.put(node.output[0], own.flat.operator(kind, [source], made), last=last)

    return rule


def binary(kind: str, options: str) -> Rule:
    """A rule for an operator of two tensors, or of one and a constant."""

    def rule(own: Converter, node: NodeProto, given: Attributes) -> None:
        last = any(own.stored(name)[1] for name in node.input if name not in own.constants)
        inputs = []
        for name in node.input:
            if name in own.constants:
                values = own.constants[name]
                inputs.append(own.weight(f"{name}/{node.output[0]}", _last(values) if last else values))
            else:
                inputs.append(own.channels_last(name) if last else own.plain(name))
        shape = own.last_shape(node.output[0]) if last else own.shapes[node.output[0]]
        made = own.flat.tensor(node.output[0], shape)
        own.put(node.output[0], own.flat.operator(kind, inputs, made, options), last=last)

    return rule


def _last(values: Array) -> Array:
    """A constant that broadcasts over images, with its channels last."""
    if values.ndim == 0:
        return values.reshape(1)
    return values.reshape((1,) * (4 - values.ndim) + values.shape).transpose(_LAST)


def reshape(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Reshape."""
    own.put(node.output[0], own.shaped(own.plain(node.input[0], as_stored=True), own.shapes[node.output[0]], node.output[0]), last=False)


def transpose(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Transpose."""
    own.put(node.output[0], own.turned(own.plain(node.input[0], as_stored=True), given["perm"]), last=False)


def concat(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Concat; of bytes only if all have one rounding."""
    places = [own.stored(name) for name in node.input]
    alike = len({own.flat.roundings[index] for index, _ in places}) == 1
    last = all(is_last for _, is_last in places)
    shape = own.shapes[node.output[0]]
    axis = given["axis"] % len(shape)
    inputs = [(own.channels_last if last else own.plain)(name, as_stored=alike) for name in node.input]
    made = own.flat.like(inputs[0], node.output[0], own.last_shape(node.output[0]) if last else shape)
    place = AXIS[axis] if last else axis
    own.put(node.output[0], own.flat.operator("CONCATENATION", inputs, made, "ConcatenationOptions", axis=place), last=last)


def resize(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Resize to the nearest row and column above and to the left."""
    mode, rule = (given.get(key, b"").decode() for key in ("mode", "coordinate_transformation_mode"))
    if mode != "nearest" or rule != "asymmetric" or given.get("nearest_mode", b"").decode() != "floor":
        raise BuildError(f"litert: Resize by {mode}, {rule} is not converted; choose a different runtime")
    shape = own.last_shape(node.output[0])
    source = own.channels_last(node.input[0], as_stored=True)
    inputs = [source, own.whole(f"{node.output[0]}/size", shape[1:3])]
    made = own.flat.like(source, node.output[0], shape)
    own.put(node.output[0], own.flat.operator("RESIZE_NEAREST_NEIGHBOR", inputs, made, "ResizeNearestNeighborOptions"), last=True)


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
    own.put(node.output[0], step("ADD", [found, shift], shape, "shifted", "AddOptions"), last=False)
