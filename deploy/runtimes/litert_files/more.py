"""Rules for the operators of mobile backbones: slices, limits, hard activations, means over an image."""

from typing import Any

import numpy as np
from onnx import NodeProto

from deploy.errors import BuildError
from deploy.runtimes.litert_files.convert import AXIS, Attributes, Converter


def slice_(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Slice, with constant places and positive steps."""
    shape = own.shapes[node.input[0]]
    starts, ends = (own.constants[name].tolist() for name in node.input[1:3])
    axes = own.constants[node.input[3]].tolist() if len(node.input) > 3 else list(range(len(starts)))
    steps = own.constants[node.input[4]].tolist() if len(node.input) > 4 else [1] * len(starts)
    if min(steps) < 1:
        raise BuildError("litert: Slice backwards is not converted; choose a different runtime")
    source, last = own.stored(node.input[0])
    first, end, step = [0] * len(shape), list(own.flat.shapes[source]), [1] * len(shape)
    for start, stop, axis, way in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        place = AXIS[axis % 4] if last else axis % len(shape)
        step[place] = way
        first[place], end[place] = (min(one + size if one < 0 else one, size) for one in (start, stop))
    name = node.output[0]
    inputs = [source, *(own.whole(f"{name}/{key}", values) for key, values in (("first", first), ("end", end), ("step", step)))]
    made = own.flat.like(source, name, own.last_shape(name) if last else own.shapes[name])
    own.put(node.output[0], own.flat.operator("STRIDED_SLICE", inputs, made, "StridedSliceOptions"), last=last)


def clip(own: Converter, node: NodeProto, given: Attributes) -> None:
    """Clip, with constant limits."""
    source, last = own.floats(node.input[0])
    ends = [own.constants[name] if name else None for name in (*node.input[1:3], "", "")[:2]]
    found = source
    for kind, end in zip(("MAXIMUM", "MINIMUM"), ends, strict=True):
        if end is not None:
            limit = own.flat.tensor(f"{node.output[0]}/{kind}", (1,), np.asarray(end, np.float32).reshape(1))
            made = own.flat.tensor(f"{node.output[0]}/{kind.lower()}", own.flat.shapes[source])
            found = own.flat.operator(kind, [found, limit], made, "MaximumMinimumOptions")
    own.put(node.output[0], found, last=last)


def hard_sigmoid(own: Converter, node: NodeProto, given: Attributes) -> None:
    """HardSigmoid: max(0, min(1, alpha * x + beta))."""
    source, last = own.floats(node.input[0])
    found, shape = source, own.flat.shapes[source]
    parts: tuple[tuple[str, float, str], ...] = (
        ("MUL", given.get("alpha", 0.2), "MulOptions"),
        ("ADD", given.get("beta", 0.5), "AddOptions"),
        ("MAXIMUM", 0.0, "MaximumMinimumOptions"),
        ("MINIMUM", 1.0, "MaximumMinimumOptions"),
    )
    for kind, value, options in parts:
        number = own.flat.tensor(f"{node.output[0]}/{kind}/number", (1,), np.array([value], np.float32))
        found = own.flat.operator(kind, [found, number], own.flat.tensor(f"{node.output[0]}/{kind}", shape), options)
    own.put(node.output[0], found, last=last)


def mean(own: Converter, node: NodeProto, given: Attributes) -> None:
    """GlobalAveragePool, and ReduceMean over rows and columns of images whose axes are kept."""
    every = (2, 3) if node.op_type == "GlobalAveragePool" else (0, 1, 2, 3)
    axes: Any = given.get("axes") or (own.constants[node.input[1]].tolist() if len(node.input) > 1 else every)
    if sorted(axis % 4 for axis in axes) != [2, 3] or not given.get("keepdims", 1) or len(own.shapes[node.input[0]]) != 4:
        raise BuildError(f"litert: {node.op_type} over axes {list(axes)} is not converted; choose a different runtime")
    name = node.output[0]
    inputs = [own.channels_last(node.input[0]), own.whole(f"{name}/axes", (1, 2))]
    made = own.flat.tensor(name, own.last_shape(name))
    own.put(node.output[0], own.flat.operator("MEAN", inputs, made, "ReducerOptions", keepDims=True), last=True)
