"""Every detector that a host can decode, converted for ncnn and LiteRT: its raw outputs agree, or the refusal names an operator."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dense_samples import lively

from deploy import plugins
from deploy.errors import BuildError
from deploy.runtimes import ort
from stages.detectors import GraphOptions
from stages.detectors.dense.detector import DenseGraph
from stages.exports.to_onnx import write_onnx

SIZE = (96, 128)
TOLERANCE = {"ncnn": 5e-3, "litert": 1e-3}
REFUSED = {("ncnn", "yolox"): "Tensor.slice"}
"""What is refused, by runtime and detector, with the operator that the message names."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["atss", "fcos", "fsaf", "gfl", "retinanet", "yolox"])
@pytest.mark.parametrize("runtime", sorted(TOLERANCE))
def test_the_raw_outputs_are_the_graphs(name: str, runtime: str, tmp_path: Path) -> None:
    own, module = plugins.load("deploy.runtimes", runtime), plugins.load("stages.detectors", name)
    if (why := own.why_not() or (own.why_not_build({}) if hasattr(own, "why_not_build") else None)) is not None:
        pytest.skip(why)
    torch.manual_seed(0)
    graph = lively(module.build(3, **module.TINY)).graph(GraphOptions(20, 40, 0.05, 0.55, 50)).eval()
    assert isinstance(graph, DenseGraph)
    decoding = graph.decoding(SIZE)
    assert decoding is not None
    heads = write_onnx(graph, SIZE, tmp_path / "raw.onnx", raw=decoding.outputs)
    if (runtime, name) in REFUSED:
        with pytest.raises(BuildError, match=REFUSED[runtime, name]):
            own.compile(tmp_path / "raw.onnx", heads, tmp_path)
        return
    file = own.compile(tmp_path / "raw.onnx", heads, tmp_path).file
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)).numpy()
    with ort.open(tmp_path / "raw.onnx", threads=1) as session:
        expected = session.heads(images, decoding.outputs)
    with own.open(file, threads=1) as session:
        found = session.heads(images, decoding.outputs)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < TOLERANCE[runtime] * max(1.0, float(np.abs(other).max()))
