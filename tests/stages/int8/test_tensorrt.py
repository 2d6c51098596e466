"""A graph with trained scales in TensorRT for RTX, which builds it without a GPU."""

import copy
from pathlib import Path
from typing import Any

import int8_samples as samples
import pytest
import torch

from deploy.runtimes import trt_rtx
from deploy.runtimes.nvidia.log import make_logger
from stages.int8.forms import Int8Forms
from stages.int8.rounded import rounded_detector


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Int8Forms, Path]:
    """The forms, and the int8 graph of a network after a step of its training."""
    folder = tmp_path_factory.mktemp("trained")
    plain = samples.student()
    forms = samples.forms(plain, folder / "forms", samples.config("trt_rtx"))
    detector, rounding = rounded_detector(copy.deepcopy(plain), forms, samples.EXPORT, samples.images())
    optimizer = torch.optim.SGD([one for one in detector.parameters() if one.requires_grad], lr=1e-3)
    with rounding:
        outputs = detector(torch.from_numpy(samples.images()[0]))
        torch.stack([level.square().mean() for level in outputs.pyramid]).sum().backward()
    optimizer.step()
    file = folder / "typed.onnx"
    file.write_bytes(forms.trained(detector).SerializeToString())
    return forms, file


def test_every_convolution_before_the_prediction_layers_is_in_int8(trained: tuple[Int8Forms, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    forms, file = trained
    made = trt_rtx.compile(file, forms.heads, tmp_path, compute_capability="8.9")
    assert made.proof["convolutions_int8"] == len(forms.table.layers)
    assert made.proof["convolutions_fp16"] == made.proof["low_precision_after_head"] == 0
    predictions = len(samples.FCOS["strides"]) * 3
    assert made.proof["convolutions_fp32"] == predictions
    assert made.file.stat().st_size > 10_000


def test_every_sum_of_features_reads_and_writes_int8(trained: tuple[Int8Forms, Path]) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    sums = [kinds for kinds in features_summed(trt, trained[1].read_bytes()) if kinds[0]]
    assert len(sums) == RESIDUALS + len(samples.FCOS["strides"]) - 1
    for inputs, readers in sums:
        assert sorted(inputs) == ["CONVOLUTION", "DEQUANTIZE"]  # TensorRT fuses the convolution with the sum
        assert set(readers) == {"QUANTIZE"}


RESIDUALS = 3
"""Blocks of a resnet10 up to stride 16."""


def features_summed(trt: Any, content: bytes) -> list[tuple[list[str], list[str]]]:
    """Of each sum of the parsed network that a convolution is an input of: the kinds of its inputs, and of its readers after a ReLU."""
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(content)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    readers: dict[str, list[Any]] = {}
    for layer in layers:
        for i in range(layer.num_inputs):
            if layer.get_input(i) is not None:
                readers.setdefault(layer.get_input(i).name, []).append(layer)
    found = []
    for layer in layers:
        given = [layer.get_input(i) for i in range(layer.num_inputs)]
        inputs = [made[one.name].type.name for one in given if one is not None and one.name in made]
        if layer.type == trt.LayerType.ELEMENTWISE and "CONVOLUTION" in inputs and len(inputs) == 2 and "CONSTANT" not in inputs:
            after = readers.get(layer.get_output(0).name, [])
            if len(after) == 1 and after[0].type == trt.LayerType.ACTIVATION:
                after = readers[after[0].get_output(0).name]
            found.append((inputs, [one.type.name for one in after]))
    return found
