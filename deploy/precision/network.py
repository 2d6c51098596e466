"""Separates the network in an ONNX graph from the part that decides detections.

The network consists of the nodes from which the head outputs are computed, back to the images or to the heads' inputs.
Everything else, mainly box decoding, scores and NMS, stays fp32 whatever the engine's precision: half precision ends at 65,504,
just below the area of a 256 x 256 box, and has steps of 0.5 px above 512.
"""

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto

from deploy.contract import Heads
from deploy.errors import BuildError, first_line

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def read(path: Path) -> ModelProto:
    """Load an ONNX file.

    Raises:
        BuildError: it is missing or damaged.
    """
    try:
        return onnx.inliner.inline_local_functions(onnx.load(path))
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # the class depends on protobuf's implementation
        raise BuildError(f"{path}: not an ONNX file; export again") from error


def name_nodes(model: ModelProto) -> None:
    """Give a unique name to every node that lacks one."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}_unnamed"
        taken.add(node.name)


def network(model: ModelProto, heads: Heads) -> set[str]:
    """Names of the nodes that the head outputs depend on and that do not depend on them, except through the heads' inputs.

    Layers that only the heads' inputs depend on are among them, with everything before.

    Raises:
        BuildError: a head output or input is not a tensor of the graph.
    """
    name_nodes(model)
    produced = {name for node in model.graph.node for name in node.output}
    missing = sorted({*heads.outputs, *heads.inputs} - produced)
    if missing or not heads.outputs:
        raise BuildError(f"the graph has no tensor '{missing[0] if missing else ''}', listed as a head output or input; export again")
    after = _after(model, heads)
    before = _before(model, heads.outputs, heads.inputs)
    # layers whose features are only read at places that a head output decides, such as those of deformable convolutions
    sampled = _before(model, heads.inputs, ()) - before - after
    layers = [node for node in model.graph.node if node.name in sampled and node.op_type in WEIGHTED]
    return (before | _before(model, [name for node in layers for name in node.output], heads.inputs)) - after


def float_layers(model: ModelProto, heads: Heads) -> set[str]:
    """The names of the convolutions and matrix products that int8 leaves in float.

    They are the prediction layers, nearest to the head outputs, and whatever reads a tensor that lies between: a rounded tensor is
    rounded for all that read it, and the boxes that a decoder refines are among these.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    waiting = list(heads.outputs)
    between: set[str] = set()
    while waiting:
        tensor = waiting.pop()
        if tensor in between or tensor in heads.inputs or tensor not in producer:
            continue
        between.add(tensor)
        node = producer[tensor]
        if node.op_type in WEIGHTED:
            found.add(node.name)
        else:
            waiting.extend(node.input)
    return found | {node.name for node in model.graph.node if node.op_type in WEIGHTED and between.intersection(node.input)}


def float_tensors(model: ModelProto) -> set[str]:
    """The names of all float32 tensors, according to shape inference.

    Raises:
        BuildError: the graph is inconsistent.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except Exception as error:
        raise BuildError(f"the ONNX graph is inconsistent: {first_line(error)}") from error
    values = [*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info]
    names = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {weight.name for weight in model.graph.initializer if weight.data_type == TensorProto.FLOAT}


def inputs(node: NodeProto) -> list[str]:
    """The tensors that a node reads, its subgraphs included."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            names += [name for inner in graph.node for name in inputs(inner)]
    return names


def _before(model: ModelProto, tensors: Iterable[str], start: Iterable[str]) -> set[str]:
    """The names of the nodes that compute tensors from those in `start`, or from the images."""
    needed = set(tensors)
    found = set()
    for node in reversed(model.graph.node):  # sorted topologically, as ONNX requires
        if needed.intersection(node.output):
            found.add(node.name)
            needed.update(set(inputs(node)).difference(start))
    return found


def _after(model: ModelProto, heads: Heads) -> set[str]:
    reached = set(heads.outputs)
    found = set()
    for node in model.graph.node:
        if reached.intersection(inputs(node)):
            found.add(node.name)
            reached.update(set(node.output).difference(heads.inputs))
    return found


def check(model: ModelProto) -> None:
    """Reject a graph that ONNX considers invalid.

    Raises:
        BuildError: with ONNX's reason.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise BuildError(f"the converted graph is invalid: {first_line(error)}") from error
