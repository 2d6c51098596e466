import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_samples
import pytest
from engine_samples import CELLS, FOUND, compiled, images, integers
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from places import ROOT

from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.precision import Precision, fp16
from deploy.runtimes import ort, trt

HEADS = onnx_samples.HEADS


def build(folder: Path, chosen: Precision, **sample: Any) -> Path:
    model = onnx_samples.write(folder / "model.onnx", **sample)
    return compiled("ort", model, folder, chosen, [images(CELLS), images({(1, 1): 1})]).file


def in_true_half(model: onnx.ModelProto, names: Sequence[str], x: NDArray[np.float32]) -> list[Any]:
    """ONNX's own evaluator computes fp16 in fp16, which ONNX Runtime's CPU provider does not."""
    return list(ReferenceEvaluator(model).run(list(names), {"images": x}))


def test_half_precision_overflows_after_the_head_and_not_as_we_convert_it() -> None:
    poisoned = fp16.to_fp16(onnx_samples.detector(), Heads(outputs=("boxes", "scores")))  # as if decoding belonged to the network
    x = images(CELLS)
    with np.errstate(all="ignore"):
        assert np.isnan(in_true_half(poisoned, ["boxes"], x)[0]).any()
    boxes, scores = in_true_half(fp16.to_fp16(onnx_samples.detector(), HEADS), ["boxes", "scores"], x)
    assert np.isfinite(boxes).all()
    assert {tuple(box) for box in boxes[scores > 0].tolist()} == {box[:4] for box in FOUND}


def test_inputs_and_outputs_keep_their_types_in_fp16() -> None:
    typed = fp16.to_fp16(onnx_samples.detector(), HEADS)
    kinds = {value.name: value.type.tensor_type.elem_type for value in [*typed.graph.input, *typed.graph.output]}
    assert kinds["images"] == kinds["boxes"] == kinds["scores"] == TensorProto.FLOAT
    assert kinds["labels"] == TensorProto.INT64


def test_a_weight_shared_with_the_decoding_is_kept_in_both_types() -> None:
    typed = fp16.to_fp16(onnx_samples.detector(), HEADS)
    dtypes = {weight.name: weight.data_type for weight in typed.graph.initializer}
    assert dtypes["one"] == TensorProto.FLOAT
    assert dtypes["one_fp16"] == TensorProto.FLOAT16
    assert dtypes["cells"] == TensorProto.FLOAT
    assert "stem_weight" not in dtypes


def test_the_original_is_left_as_it_was() -> None:
    model = onnx_samples.detector()
    before = model.SerializeToString()
    fp16.to_fp16(model, HEADS)
    assert model.SerializeToString() == before


def test_a_weight_beyond_half_precision_is_refused() -> None:
    model = onnx_samples.detector()
    weight = next(w for w in model.graph.initializer if w.name == "class_bias")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(3, 1e5, np.float32), "class_bias"))
    with pytest.raises(BuildError, match=r"class_bias.*65504"):
        fp16.to_fp16(model, HEADS)


def test_the_cpu_recipe_is_unsigned_with_the_relu_inside_and_tensorrts_is_symmetric(tmp_path: Path) -> None:
    scratch = tmp_path / "cpu", tmp_path / "gpu"
    for folder in scratch:
        folder.mkdir()
    cpu = integers(onnx_samples.detector(), [images(CELLS)], ort.INTEGERS, scratch[0])
    tensorrt = integers(onnx_samples.detector(), [images(CELLS)], trt.INTEGERS, scratch[1])
    assert "Relu" not in {node.op_type for node in cpu.graph.node}
    assert [node.op_type for node in tensorrt.graph.node].count("Relu") == 2
    assert activation_types(cpu) == {TensorProto.UINT8}
    assert activation_types(tensorrt) == {TensorProto.INT8}
    zeros = [onnx.numpy_helper.to_array(w) for w in tensorrt.graph.initializer if w.name.endswith("zero_point")]
    assert all((zero == 0).all() for zero in zeros)
    assert not any("bias_quantized" in w.name for w in tensorrt.graph.initializer)


def activation_types(model: onnx.ModelProto) -> set[int]:
    types = {weight.name: weight.data_type for weight in model.graph.initializer}
    return {types[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}


def test_the_prediction_layers_stay_float(tmp_path: Path) -> None:
    model = onnx.load(build(tmp_path, "int8"))
    last = [node for node in model.graph.node if set(node.output) & set(HEADS.outputs)]
    weights = {weight.name for weight in model.graph.initializer if weight.data_type == TensorProto.FLOAT}
    assert len(last) == 2
    assert all(node.op_type == "Conv" and node.input[1] in weights for node in last)


@pytest.mark.parametrize(
    ("chosen", "heads", "calibration", "message"),
    [
        ("fp16", Heads(outputs=("unknown",)), [], "no tensor 'unknown'"),
        ("fp32", Heads(outputs=()), [], "no tensor ''"),
        ("int8", HEADS, [], "no image to calibrate"),
        ("int8", Heads(outputs=("stem",)), [np.zeros((1, 3, 64, 64), np.float32)], "no convolution"),
        ("int8", HEADS, [np.zeros((1, 3, 9, 9), np.float32)], "cannot quantize"),
    ],
)
def test_a_graph_that_cannot_be_converted_is_refused_in_one_line(
    tmp_path: Path, chosen: Precision, heads: Heads, calibration: list[Any], message: str
) -> None:
    model = onnx_samples.write(tmp_path / "model.onnx")
    with pytest.raises(BuildError, match=message) as caught:
        compiled("ort", model, tmp_path, chosen, calibration, heads)
    assert "\n" not in str(caught.value)


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 40)
    with pytest.raises(BuildError, match="not an ONNX file"):
        ort.compile(tmp_path / "model.onnx", HEADS, tmp_path)


def test_an_idle_session_keeps_no_core_busy(tmp_path: Path) -> None:
    """In a process of its own: sessions of other tests may be busy."""
    onnx_samples.write(tmp_path / "model.onnx")
    code = (
        "import sys, time, numpy, pathlib\n"
        "from deploy.runtimes import ort\n"
        "with ort.open(pathlib.Path(sys.argv[1]), threads=2) as session:\n"
        "    session.infer(numpy.zeros((1, 3, 64, 64), numpy.float32))\n"
        "    spent = time.process_time()\n"
        "    time.sleep(0.05)\n"
        "    print(time.process_time() - spent)\n"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "model.onnx")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.01
