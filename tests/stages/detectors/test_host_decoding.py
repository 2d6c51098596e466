"""Decoding on the host makes the decisions of the graph, on heads as the networks give them and on random ones."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from dense_samples import lively
from numpy.typing import NDArray
from torch import Tensor

from deploy import plugins
from deploy.contract import ModelContract, Preprocessing
from deploy.errors import ArtifactError
from deploy.runtimes import Raw, openvino, ort
from deploy.runtimes.host_decoding.boxes import Decoder
from deploy.runtimes.host_decoding.session import answer, decoded
from stages.detectors import GraphOptions
from stages.detectors.dense.detector import DenseDetector, DenseGraph
from stages.exports.to_onnx import write_onnx

PACKAGE = "stages.detectors"
NAMES = ("atss", "fcos", "fsaf", "gfl", "retinanet", "yolox")
SIZE = (96, 128)
NUM_CLASSES = 3


def options(*, agnostic: bool = False, candidates: int = 40) -> GraphOptions:
    return GraphOptions(20, candidates, 0.05, 0.55, 50, agnostic)


@cache
def detector(name: str, **more: object) -> DenseDetector:
    torch.manual_seed(0)
    module = plugins.load(PACKAGE, name)
    built: DenseDetector = module.build(NUM_CLASSES, **{**module.TINY, **more})
    return built.eval()


def graph_of(name: str, chosen: GraphOptions, **more: object) -> DenseGraph:
    graph = detector(name, **more).graph(chosen)
    assert isinstance(graph, DenseGraph)
    return graph.eval()


def random_heads(graph: DenseGraph, images: int, kind: str) -> dict[str, Tensor]:
    """Raw outputs of the graph's shapes; "ties" have few different values, "empty" none above the threshold."""
    with torch.no_grad():
        shapes = {name: value.shape[1:] for name, value in graph.raw(graph.detector.features(torch.zeros(1, 3, *SIZE))).items()}
    generator = torch.Generator().manual_seed(7)
    values = {name: torch.randn(images, *shape, generator=generator) for name, shape in shapes.items()}
    if kind == "ties":
        values = {name: (value * 2).round() / 2 for name, value in values.items()}
    if kind == "empty":
        values["cls_logits"][0] = -30.0
    return values


def on_the_host(graph: DenseGraph, heads: dict[str, Tensor]) -> Raw:
    decoding = graph.decoding(SIZE)
    assert decoding is not None
    arrays: dict[str, NDArray[np.float32]] = {name: value.numpy() for name, value in zip(decoding.outputs, heads.values(), strict=True)}
    images = [{name: value[index] for name, value in arrays.items()} for index in range(len(next(iter(arrays.values()))))]
    return answer(images, Decoder(decoding, Preprocessing(height=SIZE[0], width=SIZE[1])), decoding)


def same(found: Raw, index: int, boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    count = int((scores > 0).sum())
    assert int((found.scores[index] > 0).sum()) == count
    np.testing.assert_allclose(found.scores[index, :count], scores[:count].numpy(), atol=1e-6)
    assert found.labels[index, :count].tolist() == labels[:count].tolist()
    np.testing.assert_allclose(found.boxes[index, :count], boxes[:count].numpy(), atol=2e-3)


@pytest.mark.parametrize("kind", ["spread", "ties", "empty"])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_random_heads_become_the_same_boxes_in_the_same_order(
    name: str, agnostic: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(name, options(agnostic=agnostic))
    heads = random_heads(graph, 3, kind)
    found = on_the_host(graph, heads)
    monkeypatch.setattr(graph, "raw", lambda _: heads)
    with torch.no_grad():
        expected = graph(torch.zeros(3, 3, *SIZE))
    assert expected.converged.all()
    for index in range(3):
        same(found, index, expected.boxes[index], expected.scores[index], expected.labels[index])
    assert (found.scores[0] > 0).any() == (kind != "empty")


@pytest.mark.parametrize(("name", "version"), [("fcos", "mmdet"), ("fcos", "mmdet_normbbox"), ("retinanet", "mmdet"), ("retinanet", 1)])
def test_other_versions_do_too(name: str, version: object, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = {"range_scale": 1.0} if name == "fcos" else {}
    graph = graph_of(name, options(candidates=1000), version=version, **scale)
    heads = random_heads(graph, 2, "spread")
    found = on_the_host(graph, heads)
    monkeypatch.setattr(graph, "raw", lambda _: heads)
    with torch.no_grad():
        expected = graph(torch.zeros(2, 3, *SIZE))
    for index in range(2):
        same(found, index, expected.boxes[index], expected.scores[index], expected.labels[index])


def test_the_graph_ends_at_the_raw_outputs_and_answers_as_the_whole_one(tmp_path: Path) -> None:
    graph = lively(detector("fcos")).graph(options()).eval()
    assert isinstance(graph, DenseGraph)
    decoding = graph.decoding(SIZE)
    assert decoding is not None
    heads = write_onnx(graph, SIZE, tmp_path / "raw.onnx", raw=decoding.outputs)
    write_onnx(graph, SIZE, tmp_path / "whole.onnx")
    model = onnx.load(str(tmp_path / "raw.onnx"))
    assert tuple(value.name for value in model.graph.output) == heads.outputs == decoding.outputs
    assert not {"TopK", "GatherElements"} & {node.op_type for node in model.graph.node}
    size = Preprocessing(height=SIZE[0], width=SIZE[1])
    contract = ModelContract(preprocessing=size, classes=("a", "b", "c"), category_ids=(1, 2, 3), decoding=decoding)
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)).numpy()
    with ort.open(tmp_path / "whole.onnx", threads=1) as session:
        expected = session.infer(images)
    for runtime in (ort, openvino):
        with decoded(runtime.open(tmp_path / "raw.onnx", threads=1), contract) as session:
            found = session.infer(images)
        assert (found.scores > 0).sum() == (expected.scores > 0).sum() > 0
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
    with ort.open(tmp_path / "raw.onnx", threads=1) as session, pytest.raises(ArtifactError, match="decoded on the host"):
        session.infer(images)
    with decoded(ort.open(tmp_path / "whole.onnx", threads=1), contract) as session, pytest.raises(ArtifactError, match="engine failed"):
        session.infer(images)


def test_others_are_decoded_in_the_graph_only() -> None:
    names = set(plugins.names(PACKAGE)) - set(NAMES)
    assert "reppoints" in names
    assert graph_of("reppoints", options()).decoding(SIZE) is None
