"""Every detector that a host can decode, in LiteRT's int8: its raw outputs are as close to the float ones as the written graph's."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from dense_samples import lively

from deploy import plugins
from deploy.precision import network, placement
from deploy.precision.int8 import Quantizer
from deploy.runtimes import litert
from stages.detectors import GraphOptions
from stages.detectors.dense.detector import DenseGraph
from stages.exports.to_onnx import write_onnx

SIZE = (96, 128)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["atss", "fcos", "fsaf", "gfl", "retinanet", "yolox"])
def test_int8_costs_what_the_written_graph_costs(name: str, tmp_path: Path) -> None:
    if (why := litert.why_not()) is not None:
        pytest.skip(why)
    torch.manual_seed(0)
    module = plugins.load("stages.detectors", name)
    graph = lively(module.build(3, **module.TINY)).graph(GraphOptions(20, 40, 0.05, 0.55, 50)).eval()
    assert isinstance(graph, DenseGraph)
    decoding = graph.decoding(SIZE)
    assert decoding is not None
    heads = write_onnx(graph, SIZE, tmp_path / "raw.onnx", raw=decoding.outputs)
    images = torch.randn(5, 1, 3, *SIZE, generator=torch.Generator().manual_seed(1)).numpy()
    quantizer = Quantizer(network.read(tmp_path / "raw.onnx"), heads, list(images[:4]), litert.INTEGERS, "min_max", tmp_path)
    typed = quantizer.quantized(quantizer.layers)
    onnx.save(typed, tmp_path / "typed.onnx")
    compiled = litert.compile(tmp_path / "typed.onnx", heads, tmp_path)
    assert compiled.proof["convolutions_int8"] == len(quantizer.layers)
    plain, written = (placement.values(model, decoding.outputs, images[4]) for model in (quantizer.model, typed))
    with litert.open(compiled.file, threads=1) as session:
        found = dict(zip(decoding.outputs, session.heads(images[4], decoding.outputs), strict=True))
    for output in decoding.outputs:
        own, graphs = (float(np.sqrt(np.square(one[output] - plain[output]).mean())) for one in (found, written))
        assert own < 1.25 * graphs + 1e-5, f"{output}: {own} against {graphs}"
