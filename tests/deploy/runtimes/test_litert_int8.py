"""LiteRT's int8: the file computes in bytes, with the numbers of the graph that the quantizer wrote."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from deploy.contract import Heads
from deploy.precision import placement
from deploy.precision.int8 import Quantizer
from deploy.runtimes import litert

pytestmark = pytest.mark.skipif(litert.why_not() is not None, reason="ai-edge-litert is not installed")

HEADS = Heads(outputs=("logits",))
Array = NDArray[np.float32]


def network() -> ModelProto:
    """A stem, pooling with a border, a residual sum, a depthwise layer, a sum with an enlarged map, a concatenation, a prediction layer."""
    random = np.random.default_rng(0)
    sizes = {
        "stem": (8, 3, 3, 3),
        "c1": (8, 8, 3, 3),
        "c2": (8, 8, 3, 3),
        "deep": (8, 1, 3, 3),
        "point": (8, 8, 1, 1),
        "last": (4, 16, 1, 1),
    }
    given = {name: (random.normal(size=size) / np.sqrt(np.prod(size[1:]))).astype(np.float32) for name, size in sizes.items()}
    given |= {f"{name}_bias": random.normal(size=len(weight)).astype(np.float32) for name, weight in given.items()}
    constants: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {**given, "scales": np.array([1, 1, 2, 2], np.float32)}
    constants |= {"flat": np.array([0, 4, -1], np.int64)}
    node = helper.make_node

    def conv(name: str, reads: str, *, pad: int = 1, stride: int = 1, group: int = 1) -> NodeProto:
        more: dict[str, Any] = {"pads": [pad] * 4, "strides": [stride] * 2, "group": group}
        return node("Conv", [reads, name, f"{name}_bias"], [f"{name}_out"], name=name, **more)

    enlarging: dict[str, Any] = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    nodes = [
        *(conv("stem", "images", stride=2), node("Relu", ["stem_out"], ["a"])),
        node("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        *(conv("c1", "b"), node("Relu", ["c1_out"], ["c"]), conv("c2", "c")),
        *(node("Add", ["c2_out", "b"], ["sum"]), node("Relu", ["sum"], ["d"])),
        *(conv("deep", "d", stride=2, group=8), conv("point", "deep_out", pad=0)),
        node("Resize", ["point_out", "", "scales"], ["large"], **enlarging),
        *(node("Add", ["large", "d"], ["joined"]), node("Concat", ["joined", "d"], ["both"], axis=1), conv("last", "both", pad=0)),
        *(node("Reshape", ["last_out", "flat"], ["rows"]), node("Transpose", ["rows"], ["logits"], perm=[0, 2, 1])),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 48])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 96, 4])
    graph = helper.make_graph(nodes, "small", [images], [logits], [numpy_helper.from_array(v, k) for k, v in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def images(number: int = 4) -> list[Array]:
    random = np.random.default_rng(1)
    return [random.normal(size=(1, 3, 32, 48)).astype(np.float32) for _ in range(number)]


@pytest.fixture
def quantizer(tmp_path: Path) -> Quantizer:
    return Quantizer(network(), HEADS, images(), litert.INTEGERS, "min_max", tmp_path)


def written(quantizer: Quantizer, layers: Collection[str], folder: Path) -> tuple[ModelProto, Path]:
    """The graph with these layers in int8, and the engine of it."""
    typed = quantizer.quantized(layers)
    onnx.save(typed, folder / "typed.onnx")
    return typed, litert.compile(folder / "typed.onnx", HEADS, folder).file


def operators(file: Path) -> Counter[str]:
    """How often each operator reads which type first."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    types = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
    graph = model.subgraphs[0]
    return Counter(
        f"{codes[model.operatorCodes[one.opcodeIndex].builtinCode]} {types[graph.tensors[one.inputs[0]].type]}" for one in graph.operators
    )


@pytest.mark.parametrize("in_float", [set(), {"c1"}, {"stem", "deep"}, {"c2", "point"}], ids=["all", "one", "first", "sums"])
def test_its_numbers_are_the_graphs(in_float: set[str], quantizer: Quantizer, tmp_path: Path) -> None:
    typed, file = written(quantizer, set(quantizer.layers) - in_float, tmp_path)
    given = images(6)[-1]
    expected, plain = (placement.values(model, ["logits"], given)["logits"] for model in (typed, quantizer.model))
    with litert.open(file, threads=1) as session:
        (found,) = session.heads(given, HEADS.outputs)
    error, rounding = (float(np.sqrt(np.square(one - expected).mean())) for one in (found, plain))
    # A sum that falls between two bytes may be rounded to either, and the layers after it see that.
    assert error < 0.3 * rounding
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_layers_sums_and_moves_are_in_bytes(quantizer: Quantizer, tmp_path: Path) -> None:
    _, file = written(quantizer, quantizer.layers, tmp_path)
    found = operators(file)
    assert {kind: found[f"{kind} INT8"] for kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "ADD", "RESIZE_NEAREST_NEIGHBOR")} == {
        "CONV_2D": 4,
        "DEPTHWISE_CONV_2D": 1,
        "MAX_POOL_2D": 1,
        "ADD": 1,
        "RESIZE_NEAREST_NEIGHBOR": 1,
    }
    assert found["CONV_2D FLOAT32"] == 1  # the prediction layer
    assert found["QUANTIZE FLOAT32"] == 1  # the images
    assert found["RELU FLOAT32"] == 0


def test_a_layer_that_was_returned_to_float_is_in_float(quantizer: Quantizer, tmp_path: Path) -> None:
    _, file = written(quantizer, set(quantizer.layers) - {"c1", "deep"}, tmp_path)
    found = operators(file)
    assert (found["CONV_2D FLOAT32"], found["CONV_2D INT8"]) == (2, 3)
    assert (found["DEPTHWISE_CONV_2D FLOAT32"], found["DEPTHWISE_CONV_2D INT8"]) == (1, 0)


def test_bytes_are_fewer_than_those_of_floats(quantizer: Quantizer, tmp_path: Path) -> None:
    (tmp_path / "float").mkdir()
    onnx.save(network(), tmp_path / "float" / "model.onnx")
    plain = litert.compile(tmp_path / "float" / "model.onnx", HEADS, tmp_path / "float").file
    _, file = written(quantizer, quantizer.layers, tmp_path)
    assert file.stat().st_size < plain.stat().st_size
