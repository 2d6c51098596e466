"""examples/npu_graph.py: a network that ends at maps, whose rows are the raw outputs of the bundle."""

import importlib.util
from pathlib import Path
from types import ModuleType

import artifact_samples as samples
import numpy as np
import onnx
import onnx_samples
import pytest
import torch
from dense_samples import lively

from deploy import plugins
from deploy.bundles.bundle import Bundle
from deploy.contract import ModelContract, Preprocessing
from deploy.errors import ArtifactError
from stages.detectors import GraphOptions
from stages.detectors.dense.detector import DenseGraph
from stages.exports.to_onnx import write_onnx

SIZE = (96, 128)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    file = Path(__file__).parents[3] / "examples" / "npu_graph.py"
    spec = importlib.util.spec_from_file_location("npu_graph", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("npu"))


def of(known: Bundle, root: Path, contract: ModelContract) -> Bundle:
    """A bundle that has root/model.onnx and this contract."""
    return Bundle(root, known.manifest.model_copy(update={"contract": contract, "onnx": "model.onnx"}))


def test_the_samples_rows_are_made_of_its_maps(script: ModuleType, known: Bundle, tmp_path: Path) -> None:
    onnx.save(onnx_samples.raw_detector(), tmp_path / "model.onnx")
    bundle = of(known, tmp_path, onnx_samples.contract(raw=True))
    (tmp_path / "out").mkdir()
    found = script.cut(bundle, tmp_path / "out")
    assert {name: len(own.maps) for name, own in found.items()} == {"class_logits": 1, "box_deltas": 1}
    network = onnx.load(str(tmp_path / "out" / "network.onnx"))
    assert not {"Reshape", "Transpose", "Concat"} & {node.op_type for node in network.graph.node}
    assert [dim.dim_value for dim in network.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 64, 64]
    assert script.check(bundle, tmp_path / "out", found) == 0


def test_rows_go_by_position_then_anchor(script: ModuleType) -> None:
    maps = np.arange(2 * 3 * 1 * 2, dtype=np.float32).reshape(1, 6, 1, 2)  # two anchors of three numbers, at two positions
    assert script.rows([maps], [2], relu=False).tolist() == [[[0, 2, 4], [6, 8, 10], [1, 3, 5], [7, 9, 11]]]


def test_a_bundle_that_decodes_boxes_is_refused(script: ModuleType, known: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"export with export\.decode: host"):
        script.cut(known, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["atss", "fcos", "fsaf", "gfl", "retinanet", "yolox"])
def test_so_are_those_of_every_detector(name: str, script: ModuleType, known: Bundle, tmp_path: Path) -> None:
    module = plugins.load("stages.detectors", name)
    torch.manual_seed(0)
    graph = lively(module.build(3, **module.TINY)).graph(GraphOptions(20, 40, 0.05, 0.55, 50)).eval()
    assert isinstance(graph, DenseGraph)
    decoding = graph.decoding(SIZE)
    assert decoding is not None
    write_onnx(graph, SIZE, tmp_path / "model.onnx", raw=decoding.outputs)
    size = Preprocessing(height=SIZE[0], width=SIZE[1])
    bundle = of(known, tmp_path, ModelContract(preprocessing=size, classes=("a", "b", "c"), category_ids=(1, 2, 3), decoding=decoding))
    (tmp_path / "out").mkdir()
    found = script.cut(bundle, tmp_path / "out")
    assert {len(own.maps) for own in found.values()} == {len(decoding.levels)}
    assert script.check(bundle, tmp_path / "out", found) < 1e-4
