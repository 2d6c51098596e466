from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from deploy.contract import Heads
from deploy.precision import Recipe, placement
from deploy.precision.int8 import Quantizer
from deploy.runtimes import nvidia

HEADS = Heads(outputs=("logits",))
TRAINED = nvidia.INTEGERS.for_training


def residual() -> ModelProto:
    """Two residual blocks, the second with a convolution in its shortcut; a concatenation of both; a prediction layer."""
    random = np.random.default_rng(0)
    weights = {f"w{n}": (random.normal(size=(8, 3 if n == 0 else 8, 3, 3)) / 8).astype(np.float32) for n in range(6)}
    weights["w5"], weights["p"] = weights["w5"][:, :, 1:2, 1:2], random.normal(size=(4, 16, 1, 1)).astype(np.float32)
    node = helper.make_node

    def conv(name: str, given: str, weight: str) -> onnx.NodeProto:
        return node("Conv", [given, weight], [name], name=name, pads=[0, 0, 0, 0] if weight in ("w5", "p") else [1, 1, 1, 1])

    nodes = [
        *(conv("stem", "images", "w0"), node("Relu", ["stem"], ["a"])),
        *(conv("c1", "a", "w1"), node("Relu", ["c1"], ["b"]), conv("c2", "b", "w2")),
        *(node("Add", ["c2", "a"], ["sum1"]), node("Relu", ["sum1"], ["d"])),
        *(conv("c3", "d", "w3"), node("Relu", ["c3"], ["e"]), conv("c4", "e", "w4"), conv("shortcut", "d", "w5")),
        *(node("Add", ["c4", "shortcut"], ["sum2"]), node("Relu", ["sum2"], ["f"])),
        *(node("Concat", ["d", "f"], ["both"], axis=1), conv("logits", "both", "p")),
    ]
    given = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 16, 16])]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, 16, 16])]
    graph = helper.make_graph(nodes, "residual", given, made, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def images() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(1)
    return [random.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(2)]


def quantizer(folder: Path, recipe: Recipe, **options: Any) -> Quantizer:
    folder.mkdir(exist_ok=True)
    return Quantizer(residual(), HEADS, images(), recipe, "min_max", folder, **options)


def test_only_one_side_of_a_residual_sum_is_rounded_and_all_of_a_concatenation(tmp_path: Path) -> None:
    own = quantizer(tmp_path, TRAINED)
    table = placement.read(own.quantized(own.layers), own.model)
    plain = quantizer(tmp_path / "plain", nvidia.INTEGERS)
    before = placement.read(plain.quantized(plain.layers), plain.model)
    assert list(before.steps) == ["images", "a", "b", "d", "e"]
    assert list(table.steps) == ["images", "a", "b", "d", "e", "shortcut", "f"]
    assert all(table.steps[name] == step for name, step in before.steps.items())
    assert {(step.zero_point, step.low, step.high) for step in table.steps.values()} == {(0, -128, 127)}
    assert [(layer.name, layer.reads, layer.rounds_bias) for layer in table.layers][:2] == [("stem", "images", False), ("c1", "a", False)]


def test_a_join_stays_float_where_a_layer_before_it_does(tmp_path: Path) -> None:
    own = quantizer(tmp_path, TRAINED)
    table = placement.read(own.quantized(set(own.layers) - {"c4"}), own.model)
    assert "shortcut" not in table.steps
    assert "f" not in table.steps


def test_a_recipe_that_rounds_outputs_has_no_need_of_joins() -> None:
    assert not Recipe(signed_activations=False, quantize_bias=True, quantize_outputs=True).for_training.quantize_joins
    assert TRAINED.quantize_joins
    assert TRAINED.for_training == TRAINED


@pytest.mark.parametrize("recipe", [TRAINED, nvidia.INTEGERS], ids=["trained", "post-training"])
def test_known_ranges_give_the_same_graph_without_images(tmp_path: Path, recipe: Recipe) -> None:
    own = quantizer(tmp_path / "own", recipe)
    expected = own.quantized(own.layers)
    (tmp_path / "other").mkdir()
    other = Quantizer(residual(), HEADS, (), recipe, "percentile", tmp_path / "other", own.ranges())
    assert other.quantized(other.layers).SerializeToString() == expected.SerializeToString()
    onnx.checker.check_model(expected, full_check=True)
