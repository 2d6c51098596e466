"""Every detector that a host can decode, by every runtime of small machines: its raw outputs agree, or the refusal names an operator.

Of the table in docs/host-decoding.md, see `agrees`.
"""

from pathlib import Path
from typing import Any

import detector_samples
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

SIZE = detector_samples.SIZE
HOST = ("atss", "fcos", "fsaf", "gfl", "retinanet", "yolox")
"""Detectors whose boxes a host can decode."""
TOLERANCE = {"ncnn": 5e-3, "litert": 1e-3}
BACKBONES = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf")
REFUSED: dict[tuple[str, str], str] = {}
"""What is refused, by runtime and detector or backbone, with the operator that the message names."""
OPTIONS = GraphOptions(20, 40, 0.05, 0.55, 50)


def runtime(name: str) -> Any:
    """A runtime that can build and open engines here; otherwise the test is skipped."""
    own = plugins.load("deploy.runtimes", name)
    if (why := own.why_not() or (own.why_not_build({}) if hasattr(own, "why_not_build") else None)) is not None:
        pytest.skip(why)
    return own


def agrees(name: str, options: dict[str, object], chosen: str, tmp_path: Path, refused: str | None) -> None:
    """Convert a detector's raw outputs and compare them, or see that the refusal names the operator."""
    own, module = runtime(chosen), plugins.load("stages.detectors", name)
    torch.manual_seed(0)
    graph = lively(module.build(3, **{**module.TINY, **options})).graph(OPTIONS).eval()
    assert isinstance(graph, DenseGraph)
    decoding = graph.decoding(SIZE)
    assert decoding is not None
    heads = write_onnx(graph, SIZE, tmp_path / "raw.onnx", raw=decoding.outputs)
    if refused is not None:
        with pytest.raises(BuildError, match=refused):
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
        assert np.abs(one - other).max() < TOLERANCE[chosen] * max(1.0, float(np.abs(other).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOST)
@pytest.mark.parametrize("chosen", sorted(TOLERANCE))
def test_the_raw_outputs_are_the_graphs(name: str, chosen: str, tmp_path: Path) -> None:
    agrees(name, {}, chosen, tmp_path, REFUSED.get((chosen, name)))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("chosen", sorted(TOLERANCE))
def test_so_are_those_of_mobile_backbones(backbone: str, chosen: str, tmp_path: Path) -> None:
    agrees("fcos", {"backbone": backbone, "width": 64}, chosen, tmp_path, REFUSED.get((chosen, backbone)))
