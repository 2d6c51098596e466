"""Every detector's graph outside torch: ONNX Runtime gives its answer, and TensorRT for RTX builds it."""

from pathlib import Path
from typing import Any

import detector_samples
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from engine_samples import compiled
from numpy.typing import NDArray
from places import ROOT
from torchvision.ops import nms

from deploy import plugins
from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.precision import Precision, network, sensitivity
from deploy.precision.int8 import Quantizer
from deploy.runtimes import Raw, ort
from stages.detectors import GraphOptions, GraphOutput
from stages.detectors.set_prediction.detector import SetPredictionDetector
from stages.exports import to_onnx
from stages.exports.to_onnx import write_onnx

QUICK = ("fcos", "ssdlite", "faster_rcnn", "rt_detr_v2")
"""One of each kind; the others are marked slow."""
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in plugins.names("stages.detectors")]
ONE_QUICK = [pytest.param(name, marks=() if name == "fcos" else pytest.mark.slow) for name in plugins.names("stages.detectors")]
"""For what exports once more, which takes torch ten seconds or more."""
DATA_DEPENDENT = {"NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "If", "Scan", "RoiAlign", "MaxRoiAlign"}
DECIDED = {"max_detections": 20, "candidates": 60, "score_threshold": 0.0, "proposals": 40}
OPTIONS = detector_samples.decisions(**DECIDED)
STRICT, AGNOSTIC = (detector_samples.decisions(**DECIDED, iou_threshold=0.1, nms=nms) for nms in ("per_class", "agnostic"))
ALL = detector_samples.decisions(**DECIDED | {"max_detections": 1000, "iou_threshold": 1.0})
"""Every candidate: no overlap is above 1."""

MOVED_AFTERWARDS = ("yolox", "grid_rcnn")
"""Suppress by other boxes than those that they return; their own tests look at that."""


class Exported:
    """A tiny detector's graph in torch and in a file."""

    def __init__(self, name: str, folder: Path, options: GraphOptions = OPTIONS) -> None:
        self.images = detector_samples.images(name, batch=3)
        self.images[2] = 0  # an image without anything
        self.detector = detector_samples.confident(detector_samples.tiny(name))
        self.graph: Any = self.detector.graph(options).eval()
        self.file = folder / f"{name}.onnx"
        self.size = (self.images.shape[2], self.images.shape[3])
        self.heads: Heads = write_onnx(self.graph, self.size, self.file)


@pytest.fixture(scope="module", params=NAMES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(request.param, tmp_path_factory.mktemp("graphs"))


def arrays(answer: GraphOutput) -> Raw:
    masks = None if answer.masks is None else answer.masks.numpy()
    return Raw(answer.boxes.numpy(), answer.scores.numpy(), answer.labels.numpy(), answer.converged.numpy(), masks)


def agree(one: Raw, other: Raw, index: int, other_index: int, tolerance: float = 2e-3) -> None:
    """As sets: each detection has a partner of its label, score and place, except where a score is a tie with the last one kept."""
    last = max(one.scores[index].min(), other.scores[other_index].min())
    free = list(range(other.scores.shape[1]))
    for row in range(one.scores.shape[1]):
        score = one.scores[index, row]
        partner = next((k for k in free if _same(one, other, (index, row), (other_index, k), tolerance)), None)
        if partner is not None:
            free.remove(partner)
        else:
            assert score - last < tolerance, (row, score, one.boxes[index, row])


def _same(one: Raw, other: Raw, a: tuple[int, int], b: tuple[int, int], tolerance: float) -> bool:
    near: NDArray[np.bool_] = np.abs(one.boxes[a] - other.boxes[b]) < 0.1
    masks = one.masks is None or other.masks is None or bool(np.abs(one.masks[a] - other.masks[b]).max() < 20 * tolerance)
    return bool(one.labels[a] == other.labels[b] and abs(one.scores[a] - other.scores[b]) < tolerance and near.all() and masks)


def test_onnx_runtime_answers_as_torch_does_at_any_batch(exported: Exported) -> None:
    with torch.no_grad():
        expected = arrays(exported.graph(exported.images))
    with ort.open(exported.file, threads=1) as session:
        together = session.infer(exported.images.numpy())
        alone = [session.infer(exported.images[i : i + 1].numpy()) for i in range(3)]
    assert together.converged.all()
    assert (together.masks is None) == (expected.masks is None)
    for index in range(3):
        agree(expected, together, index, index)
        agree(together, alone[index], index, 0)


@pytest.mark.parametrize("name", ONE_QUICK)
def test_suppression_across_classes_is_the_same_in_torch_in_the_file_and_by_torchvision(name: str, tmp_path: Path) -> None:
    """torchvision's nms is given all boxes, whatever their class; set prediction suppresses nothing either way."""
    made = Exported(name, tmp_path, AGNOSTIC)
    with torch.no_grad():
        expected, per_class, every = (made.detector.graph(options).eval()(made.images) for options in (AGNOSTIC, STRICT, ALL))
    with ort.open(made.file, threads=1) as session:
        found = session.infer(made.images.numpy())
    assert found.converged.all()
    for index in range(3):
        agree(arrays(expected), found, index, index)
        kept = torch.arange(len(every.scores[index]))
        if name in MOVED_AFTERWARDS:
            continue
        if not isinstance(made.detector, SetPredictionDetector):
            real = every.scores[index] > 0
            kept = nms(every.boxes[index][real], every.scores[index][real], AGNOSTIC.iou_threshold)
        count = min(len(kept), 20)
        torch.testing.assert_close(expected.boxes[index, :count], every.boxes[index][kept[:count]])
        assert expected.labels[index, :count].tolist() == every.labels[index][kept[:count]].tolist()
        assert not expected.scores[index, count:].any()
    assert torch.equal(expected.boxes, per_class.boxes) == isinstance(made.detector, SetPredictionDetector)


def test_its_shapes_do_not_depend_on_the_data(exported: Exported) -> None:
    model = onnx.load(str(exported.file))
    assert not {node.op_type for node in model.graph.node} & DATA_DEPENDENT
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for output in inferred.graph.output:
        sizes = [dimension.dim_value for dimension in output.type.tensor_type.shape.dim]
        assert all(sizes[1:]), output.name


def test_it_names_no_path_of_the_machine_that_exported_it(exported: Exported) -> None:
    """torch notes the stack of every node, with the files' full paths, and their source lines."""
    content = exported.file.read_bytes()
    assert str(ROOT).encode() not in content
    assert b"stack_trace" not in content
    assert b".py" not in content


@pytest.mark.parametrize("exported", ONE_QUICK, indirect=True)
def test_a_fixed_batch_exports_too(exported: Exported, tmp_path: Path) -> None:
    write_onnx(exported.graph, exported.size, tmp_path / "fixed.onnx", dynamic_batch=False)
    with ort.open(tmp_path / "fixed.onnx", threads=1) as session, ort.open(exported.file, threads=1) as dynamic:
        agree(session.infer(exported.images[:1].numpy()), dynamic.infer(exported.images[:1].numpy()), 0, 0)


def test_layers_are_ranked_by_the_head_outputs_of_the_whole_graph(exported: Exported, tmp_path: Path) -> None:
    """Bit by bit, though ONNX Runtime is not given what comes after them."""
    images = [exported.images[index : index + 1].numpy() for index in range(3)]
    quantizer = Quantizer(network.read(exported.file), exported.heads, images, ort.INTEGERS, "min_max", tmp_path)
    for model in (quantizer.model, quantizer.quantized(quantizer.layers[:1]), quantizer.quantized(quantizer.layers)):
        names = list(exported.heads.outputs)
        found = sensitivity._head_outputs(model, exported.heads, images)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        whole = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for image, values in zip(images, found, strict=True):
            assert all(np.array_equal(*pair) for pair in zip(values, whole.run(names, {"images": image}), strict=True))
        assert len(sensitivity._without_decoding(model, exported.heads).graph.node) < len(model.graph.node)


BUILT = [
    pytest.param(precision, gpu, marks=() if (precision, gpu) == ("fp16", "8.9") else pytest.mark.slow)
    for precision in ("fp32", "fp16", "int8")
    for gpu in ("8.6", "8.9", "12.0")
]


@pytest.mark.parametrize(("precision", "gpu"), BUILT)
def test_tensorrt_builds_an_engine_whose_precision_its_network_shows(
    exported: Exported, tmp_path: Path, precision: Precision, gpu: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    images = [exported.images[index : index + 1].numpy() for index in range(3)]
    made = compiled("trt_rtx", exported.file, tmp_path, precision, images, exported.heads, {"compute_capability": gpu})
    assert made.file.stat().st_size > 0
    assert made.proof[f"convolutions_{precision}"] > 0
    if precision == "int8":
        # what is left in float are the prediction layers, and convolutions of other kinds than quantization knows
        assert made.proof["convolutions_int8"] > made.proof["convolutions_fp32"]
        assert made.proof["convolutions_fp16"] == 0
    else:
        assert sum(made.proof[f"convolutions_{kind}"] for kind in ("fp32", "fp16", "int8") if kind != precision) == 0
    assert made.proof["low_precision_after_head"] == 0


def test_a_batch_that_the_exporter_fixes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As torch's exporter does without a word where Python code reads the batch as a plain number."""
    plain = to_onnx._export
    monkeypatch.setattr(to_onnx, "_export", lambda *given: plain(given[0], given[1], given[2], given[3], given[4], dynamic_batch=False))
    graph = detector_samples.tiny("fcos").graph(detector_samples.decisions()).eval()
    with pytest.raises(BuildError, match=r"takes 2 images at a time and no other number; set export\.dynamic_batch to false"):
        write_onnx(graph, detector_samples.SIZE, tmp_path / "model.onnx")
