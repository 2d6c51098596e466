from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploy.contract import Heads
from deploy.precision.int8 import Quantizer
from deploy.precision.placement import values
from deploy.runtimes import ort

HEADS = Heads(outputs=("refined",))


def refining() -> ModelProto:
    """Two layers share a weight; boxes that are predicted are read by a layer, and refined by another."""
    random = np.random.default_rng(0)
    sizes = {"w": (8, 3), "shared": (8, 8), "first_w": (4, 8), "look_w": (8, 4), "mix_w": (8, 8), "last_w": (4, 8)}
    weights = {name: random.normal(size=(*size, 1, 1)).astype(np.float32) for name, size in sizes.items()}

    def conv(name: str, *given: str) -> NodeProto:
        return helper.make_node("Conv", given, [name], name=name)

    nodes = [
        *(conv("stem", "images", "w"), helper.make_node("Relu", ["stem"], ["a"])),
        *(conv("one", "a", "shared"), conv("two", "one", "shared")),
        *(conv("first", "two", "first_w"), helper.make_node("Sigmoid", ["first"], ["boxes"])),
        *(conv("look", "boxes", "look_w"), helper.make_node("Relu", ["look"], ["b"]), conv("mix", "b", "mix_w")),
        *(conv("last", "mix", "last_w"), helper.make_node("Add", ["boxes", "last"], ["refined"])),
    ]
    given = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])]
    made = [helper.make_tensor_value_info("refined", TensorProto.FLOAT, [1, 4, 8, 8])]
    graph = helper.make_graph(nodes, "refining", given, made, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def images() -> list[NDArray[np.float32]]:
    return [np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)]


def read_by(model: ModelProto, name: str) -> list[str]:
    return next(list(node.input) for node in model.graph.node if node.name == name)


def test_boxes_that_a_later_layer_refines_are_not_rounded_for_one_that_reads_them(tmp_path: Path) -> None:
    own = Quantizer(refining(), HEADS, images(), ort.INTEGERS, "min_max", tmp_path)
    assert own.layers == ("stem", "one", "two", "mix")
    model = own.quantized(own.layers)
    assert read_by(model, "look") == ["boxes", "look_w"]
    assert "boxes" not in {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}


def test_a_layer_in_float_has_its_own_weight_though_another_one_shares_it(tmp_path: Path) -> None:
    own = Quantizer(refining(), HEADS, images(), ort.INTEGERS, "min_max", tmp_path)
    model = own.quantized(set(own.layers) - {"one"})
    assert read_by(model, "one")[1] == "shared"
    alone = own.quantized({"two"})
    assert all(np.array_equal(values(alone, ["one"], image)["one"], values(own.model, ["one"], image)["one"]) for image in images())
