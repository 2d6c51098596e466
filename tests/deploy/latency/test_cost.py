from pathlib import Path

import numpy as np
import onnx_samples
import pytest
import torch
from engine_samples import integers
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deploy.contract import Cost
from deploy.latency.cost import cost
from deploy.precision import fp16
from deploy.precision.network import read
from deploy.runtimes import ort


def exported(network: nn.Module, images: torch.Tensor, file: Path) -> Cost:
    torch.onnx.export(
        network.eval(),
        (images,),
        str(file),
        dynamo=True,
        input_names=["images"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
        external_data=False,
    )
    return cost(read(file))


def test_products_and_weights_are_those_that_torch_counts(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4, dilation=2),
        nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False),
        nn.Flatten(),
        nn.Linear(6 * 24 * 24, 5),
    )
    images = torch.zeros(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        network(images[:1])
    found = exported(network, images, tmp_path / "model.onnx")
    assert found.macs == counter.get_total_flops() // 2
    assert found.weight_bytes == pytest.approx(4 * sum(p.numel() for p in network.parameters()), abs=100)
    assert found.input_bytes == 3 * 32 * 32 * 4


def test_attention_is_two_products() -> None:
    """As one operator, which torch exports from opset 23 on."""
    shown, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 4]) for name in ("images", "y"))
    stored = [numpy_helper.from_array(np.zeros((1, 3, 5, 4), np.float32), name) for name in ("keys", "values")]
    graph = helper.make_graph([helper.make_node("Attention", ["images", "keys", "values"], ["y"])], "attention", [shown], [made], stored)
    assert cost(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])).macs == 2 * 3 * 8 * 4 * 5


def test_activations_live_from_where_they_are_made_to_their_last_reader() -> None:
    def value(name: str) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 10])

    # a: 40 bytes, read last by the sum; at the second node a, b and c are alive, at the third b, c, a and d
    nodes = [
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["c"]),
        helper.make_node("Add", ["a", "c"], ["d"]),
        helper.make_node("Neg", ["d"], ["e"]),
    ]
    made = helper.make_graph(nodes, "four", [value("a")], [value("e")])  # type: ignore[list-item]
    found = cost(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]))
    assert found.peak_activation_bytes == 3 * 40
    assert found.operators == {"Add": 1, "Neg": 2, "Relu": 1}


def test_a_lower_precision_is_smaller_and_computes_the_same(tmp_path: Path) -> None:
    model = read(onnx_samples.write(tmp_path / "model.onnx"))
    images = onnx_samples.picture({(0, 1): 0}).transpose(2, 0, 1)[None].astype("float32")
    full, half = cost(model), cost(fp16.to_fp16(model, onnx_samples.HEADS))
    whole = cost(integers(model, [images], ort.INTEGERS, tmp_path))
    assert full.macs == half.macs == whole.macs > 0
    assert full.weight_bytes > half.weight_bytes > whole.weight_bytes
    assert half.peak_activation_bytes < full.peak_activation_bytes
    assert whole.operators["QuantizeLinear"] > 0


def test_an_integer_tensor_lives_until_what_it_becomes_is_read() -> None:
    def value(name: str) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1000])

    scale, zero = numpy_helper.from_array(np.array(0.1, np.float32), "scale"), numpy_helper.from_array(np.array(0, np.int8), "zero")
    nodes = []
    for number in range(3):
        nodes += [
            helper.make_node("QuantizeLinear", [f"x{number}", "scale", "zero"], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", "scale", "zero"], [f"d{number}"]),
            helper.make_node("Relu", [f"d{number}"], [f"x{number + 1}"]),
        ]
    made = helper.make_graph(nodes, "integers", [value("x0")], [value("x3")], [scale, zero])  # type: ignore[list-item]
    found = cost(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)]))
    # the input in float and its integers, or an integer layer's input beside the output in float
    assert found.peak_activation_bytes == 1000 + 4000
