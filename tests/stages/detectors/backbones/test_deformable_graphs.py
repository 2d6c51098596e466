"""A deployed graph with a deformable convolution: the same answers in every runtime, and places in float32 at every precision."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detector_samples import TINY, confident, decisions, images
from engine_samples import compiled
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

from deploy import plugins
from deploy.contract import Heads
from deploy.precision import Precision, network
from deploy.precision.fp16 import to_fp16
from deploy.precision.int8 import Quantizer
from deploy.runtimes import ort
from stages.config import DetectorConfig
from stages.detectors import Graph, GraphOutput
from stages.detectors.backbones.deformable import DeformableConvolution, DeformableKernel, Places, convolve
from stages.exports.to_onnx import write_onnx
from stages.training.checkpoint import build_detector

SIZE = (16, 1100)
"""So wide that half precision would round places by half a position."""


class Small(Graph):
    """Two features that are read at the same places, the second nowhere else; what is found there serves as boxes."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.offsets = nn.Conv2d(8, 9 * (version + 1), 3, padding=1)
        self.kernels = nn.ModuleList((DeformableKernel(4, 8), DeformableKernel(8, 8)))
        self.last = nn.Conv2d(8, 4, 1)
        generator = torch.Generator().manual_seed(version)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)

    def forward(self, images: Tensor) -> GraphOutput:
        """See Graph.forward."""
        features = torch.relu(self.first(images)), torch.relu(self.second(images))
        predicted = self.offsets(features[0])
        factors = predicted[:, 18:].sigmoid() if predicted.shape[1] > 18 else None
        weights = [kernel.get_parameter("weight") for kernel in self.kernels]
        one, other = convolve(features, Places(predicted, predicted[:, :18], factors), weights)
        raw = self.last(torch.relu(one + other))
        boxes = raw.float().flatten(2).transpose(1, 2)
        ready = images.amax(dim=(1, 2, 3)) < torch.inf
        return GraphOutput(boxes, boxes[..., 0], torch.zeros_like(boxes[..., 0], dtype=torch.int64), ready, (raw,))


@dataclass(frozen=True)
class SmallFile:
    graph: Small
    file: Path
    heads: Heads

    @property
    def expected(self) -> NDArray[Any]:
        """As torchvision's operator computes it."""
        with torch.no_grad():
            boxes: Tensor = self.graph(wide()).boxes
        return boxes.numpy()

    def model(self) -> ModelProto:
        return network.read(self.file)


def wide(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=[1, 2])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SmallFile:
    graph, file = Small(request.param), tmp_path_factory.mktemp("small") / "model.onnx"
    return SmallFile(graph, file, write_onnx(graph.eval(), SIZE, file))


def off(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def places(model: ModelProto, heads: Heads) -> list[onnx.NodeProto]:
    """The nodes that depend on what predicts offsets, up to the sampled features."""
    reached, found = {heads.outputs[1]}, []
    for node in model.graph.node:
        if reached & set(node.input) and not set(node.output) & set(heads.outputs):
            found.append(node)
            reached |= set(node.output) - set(heads.inputs)
    return found


def test_it_is_one_sampling_and_plain_convolutions(exported: SmallFile) -> None:
    kinds = [node.op_type for node in exported.model().graph.node]
    assert kinds.count("GridSample") == 1
    assert kinds.count("Conv") == 6
    assert "DeformConv" not in kinds
    assert exported.heads == Heads(outputs=("head_0", "head_1"), inputs=("pooled_0",))


@pytest.mark.parametrize("runtime", ["ort", "openvino"])
def test_runtimes_answer_as_torch_does_at_any_batch(exported: SmallFile, runtime: str, tmp_path: Path) -> None:
    pytest.importorskip({"ort": "onnxruntime"}.get(runtime, runtime))
    made = compiled(runtime, exported.file, tmp_path, "fp32", (), exported.heads)
    with plugins.load("deploy.runtimes", runtime).open(made.file, threads=1) as session:
        together, alone = session.infer(wide().numpy()), session.infer(wide()[1:2].numpy())
    # Each sampling multiplies a rounding error of its places by how steep the features are there.
    assert off(together.boxes, exported.expected) < 3e-4
    assert off(alone.boxes, exported.expected[1:2]) < 3e-4


def test_half_precision_leaves_the_places_alone(exported: SmallFile) -> None:
    half = to_fp16(exported.model(), exported.heads)
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.graph.value_info, *inferred.graph.output)}
    after = places(half, exported.heads)
    assert "GridSample" in [node.op_type for node in after]
    assert all(types.get(name) != TensorProto.FLOAT16 for node in after for name in node.output)
    convolutions = [node for node in half.graph.node if node.op_type == "Conv"]
    assert [types[node.output[0]] for node in convolutions] == [TensorProto.FLOAT16] * 6
    session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    assert off(session.run(["boxes"], {"images": wide().numpy()})[0], exported.expected) < 0.02


def test_int8_leaves_the_places_and_what_predicts_them_alone(exported: SmallFile, tmp_path: Path) -> None:
    calibration = [image[None].numpy() for image in wide()]
    quantizer = Quantizer(exported.model(), exported.heads, calibration, ort.INTEGERS, "min_max", tmp_path)
    assert len(quantizer.layers) == 4  # both features' convolutions, and both that read what was sampled
    made = quantizer.quantized(quantizer.layers)
    assert not {node.op_type for node in places(made, exported.heads)} & {"QuantizeLinear", "DequantizeLinear"}
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["boxes"], {"images": wide().numpy()})[0]
    assert np.abs(found - exported.expected).mean() < 0.1 * np.abs(exported.expected).mean()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_builds_it(exported: SmallFile, precision: Precision, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    calibration = [image[None].numpy() for image in wide()]
    made = compiled("trt_rtx", exported.file, tmp_path, precision, calibration, exported.heads, {"compute_capability": "8.9"})
    assert made.proof[f"convolutions_{precision}"] == (6 if precision == "fp16" else 4)
    assert made.proof["low_precision_after_head"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 128), (160, 96)])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["fcos", "faster_rcnn"])
def test_a_detector_on_a_deformable_backbone_finds_the_same_everywhere(
    name: str, version: int, size: tuple[int, int], tmp_path: Path
) -> None:
    options = {**TINY[name], "deformable": (3, 4, 5), "deformable_version": version}
    detector = confident(build_detector(DetectorConfig.model_validate({"name": name, **options}), 5))
    for module in detector.modules():
        if isinstance(module, DeformableConvolution):
            nn.init.normal_(module.conv_offset.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    graph: Any = detector.graph(decisions(max_detections=20, candidates=60, score_threshold=0.0, proposals=40)).eval()
    given = torch.nn.functional.interpolate(images(name, batch=3), size)
    with torch.no_grad():
        expected = graph(given)
    heads = write_onnx(graph, size, tmp_path / "model.onnx")
    for runtime in ("ort", "openvino"):
        (tmp_path / runtime).mkdir()
        made = compiled(runtime, tmp_path / "model.onnx", tmp_path / runtime, "fp32", (), heads)
        with plugins.load("deploy.runtimes", runtime).open(made.file, threads=1) as session:
            found = [session.infer(given.numpy()), session.infer(given[:1].numpy())]
        for answer in found:
            count = len(answer.scores)
            np.testing.assert_allclose(answer.scores, expected.scores[:count].numpy(), atol=1e-4)
            np.testing.assert_allclose(answer.boxes[:, :5], expected.boxes[:count, :5].numpy(), atol=0.05)
    (tmp_path / "rtx").mkdir()
    made = compiled("trt_rtx", tmp_path / "model.onnx", tmp_path / "rtx", "fp16", (), heads, {"compute_capability": "8.9"})
    assert made.proof["convolutions_fp16"] > made.proof["convolutions_fp32"] == 0
