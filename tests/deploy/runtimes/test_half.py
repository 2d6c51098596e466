"""Half precision as computed by torch, which is another implementation, and on the hand-made detector."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_samples
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from deploy.contract import Heads
from deploy.errors import ArtifactError
from deploy.precision import fp16, network
from deploy.runtimes import ort
from deploy.runtimes.onnx_files.half import HalfSession
from deploy.runtimes.onnx_files.half_operators import Conv, GatherElements, GridSample, MatMul, MaxPool

Array = NDArray[Any]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


def rounded(values: torch.Tensor) -> Array:
    return values.numpy().astype(np.float16)


def evaluate(kind: type, *inputs: Array, **attributes: Any) -> Array:
    names = [f"in{i}" for i in range(len(inputs))]
    kinds = {np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.int64): TensorProto.INT64}
    given = [helper.make_tensor_value_info(name, kinds[value.dtype], value.shape) for name, value in zip(names, inputs, strict=True)]
    node = helper.make_node(kind.__name__, names, ["out"], **attributes)
    made = helper.make_graph([node], "one", given, [helper.make_tensor_value_info("out", TensorProto.FLOAT16, None)])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])
    evaluator = onnx.reference.ReferenceEvaluator(model, new_ops=[Conv, MaxPool, MatMul, GatherElements, GridSample])
    answers = evaluator.run(None, dict(zip(names, inputs, strict=True)))
    assert isinstance(answers, list)
    return np.asarray(answers[0])


@pytest.mark.parametrize(
    ("groups", "kernel", "stride", "pad", "dilation"), [(1, 3, 1, 1, 1), (1, 7, 2, 3, 1), (4, 3, 2, 1, 1), (2, 3, 1, 2, 2), (8, 1, 1, 0, 1)]
)
def test_convolutions_are_torchs_rounded_once(groups: int, kernel: int, stride: int, pad: int, dilation: int) -> None:
    images, weight, bias = drawn(2, 8, 13, 17), drawn(16, 8 // groups, kernel, kernel, seed=1), drawn(16, seed=2)
    full = [torch.from_numpy(one).float() for one in (images, weight, bias)]
    expected = functional.conv2d(full[0], full[1], full[2], stride, pad, dilation, groups)
    got = evaluate(
        Conv, images, weight, bias, group=groups, strides=[stride] * 2, pads=[pad] * 4, dilations=[dilation] * 2, kernel_shape=[kernel] * 2
    )
    assert got.dtype == np.float16
    # sums in another order may fall on the other side of a rounding
    assert got == pytest.approx(rounded(expected), rel=2e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "pad", "ceil"), [(15, 18, 3, 2, 1, 0), (15, 18, 2, 2, 0, 1), (10, 9, 3, 3, 1, 1)]
)
def test_pooling_is_torchs(height: int, width: int, kernel: int, stride: int, pad: int, ceil: int) -> None:
    images = drawn(2, 3, height, width)
    expected = nn.MaxPool2d(kernel, stride, pad, ceil_mode=bool(ceil))(torch.from_numpy(images).float())
    got = evaluate(MaxPool, images, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, ceil_mode=ceil)
    assert np.array_equal(got, rounded(expected))


@pytest.mark.parametrize("align_corners", [0, 1])
def test_sampling_a_grid_is_torchs(align_corners: int) -> None:
    images, grid = drawn(2, 3, 7, 9), (drawn(2, 5, 6, 2, seed=1) * np.float16(0.8)).astype(np.float16)
    full = [torch.from_numpy(one).float() for one in (images, grid)]
    expected = functional.grid_sample(full[0], full[1], mode="bilinear", padding_mode="zeros", align_corners=bool(align_corners))
    got = evaluate(GridSample, images, grid, mode="linear", padding_mode="zeros", align_corners=align_corners)
    assert got == pytest.approx(rounded(expected), rel=2e-3, abs=2e-3)


def test_gathering_takes_more_than_64_rows_and_counts_from_the_end() -> None:
    values, index = drawn(100, 3), np.array([[-1, 0, 5]] * 100, np.int64)
    expected = torch.gather(torch.from_numpy(values), 0, torch.from_numpy(index % 100))
    assert np.array_equal(evaluate(GatherElements, values, index, axis=0), expected.numpy())


@pytest.fixture
def half(tmp_path: Path) -> Path:
    model = fp16.to_fp16(network.read(onnx_samples.write(tmp_path / "model.onnx")), onnx_samples.HEADS)
    onnx.save(model, tmp_path / "half.onnx")
    return tmp_path / "half.onnx"


def images(scale: float = 1) -> NDArray[np.float32]:
    return (onnx_samples.picture({(0, 1): 0, (2, 3): 2}).transpose(2, 0, 1)[None] / 255 * scale).astype(np.float32)


def test_a_detector_in_half_finds_what_it_finds_in_float(half: Path) -> None:
    with HalfSession(half) as session, ort.open(half.with_name("model.onnx"), threads=1) as full:
        got, expected = session.infer(images()), full.infer(images())
    found = expected.scores[0] > 0
    assert found.sum() == 2
    assert np.array_equal(got.labels[0, found], expected.labels[0, found])
    assert got.boxes[0, found] == pytest.approx(expected.boxes[0, found])
    assert got.scores == pytest.approx(expected.scores, abs=2e-3)
    assert session.largest
    assert {name: value for name, value in session.largest.items() if "weight" not in name}
    assert max(session.largest.values()) < fp16.HALF_MAX


def test_the_largest_value_of_each_half_tensor_is_kept(half: Path) -> None:
    with HalfSession(half) as session:
        session.infer(images(0.5))
        before = session.largest["features"]
        session.infer(images(2))
        assert session.largest["features"] > before
        session.infer(images(0.1))
        assert session.largest["features"] > before
        assert "placed" not in session.largest  # decoding is not half


def test_minus_infinity_is_no_overflow_where_a_constant_brings_it_until_a_softmax_ends_it(half: Path) -> None:
    """As masks of attention do; here one hides the first channel of the features, beside what is answered."""
    model = onnx.load(half)
    mask = np.zeros((1, 8, 1, 1), np.float16)
    mask[:, 0] = -np.inf
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    at = next(i for i, node in enumerate(model.graph.node) if "features" in node.output)
    features = model.graph.node[at].output[0]
    added = [("Add", [features, "mask"], "hidden"), ("Softmax", ["hidden"], "shares"), ("Neg", ["shares"], "less")]
    for number, (kind, inputs, output) in enumerate(added):
        model.graph.node.insert(at + 1 + number, helper.make_node(kind, inputs, [output], name=output))
    model.graph.node[at + 2].attribute.append(helper.make_attribute("axis", 1))
    onnx.save(model, half)
    with HalfSession(half) as session:
        session.infer(images())
        assert 0 < session.largest["hidden"] <= session.largest["features"]
        assert 0 < session.largest["shares"] <= 1
        assert "hidden" in session._masked
        assert session._masked.isdisjoint({"shares", "less", "features"})


@pytest.mark.parametrize("sign", [1, -1])
def test_a_tensor_that_overflows_to_either_side_is_named(half: Path, sign: int) -> None:
    model = onnx.load(half)
    for weight in model.graph.initializer:
        if weight.name == "stem_weight_fp16":
            values = np.abs(numpy_helper.to_array(weight)) * np.float16(sign * 60_000)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, half)
    with HalfSession(half) as session, pytest.raises(ArtifactError, match=r"tensor '.*' is not finite in half precision; choose fp32"):
        session.infer(images(100))


def test_an_operator_that_the_evaluator_lacks_is_one_line(half: Path) -> None:
    model = onnx.load(half)
    model.graph.node[0].op_type = "Unheard"
    onnx.save(model, half)
    with pytest.raises(ArtifactError, match=r"cannot compute the graph \(") as caught, HalfSession(half) as session:
        session.infer(images())
    assert "\n" not in str(caught.value)


def test_squares_do_not_overflow_on_their_way_to_a_root(tmp_path: Path) -> None:
    """RMS normalization, as DEIMv2 has it: half precision would make zeros of values above 255."""
    node = helper.make_node
    nodes = [
        *(
            node("Conv", ["images", "weight"], ["x"]),
            node("Pow", ["x", "two"], ["squares"]),
            node("ReduceMean", ["squares", "axis"], ["mean"]),
        ),
        *(node("Add", ["mean", "least"], ["above"]), node("Sqrt", ["above"], ["root"]), node("Reciprocal", ["root"], ["factor"])),
        *(node("Mul", ["x", "factor"], ["normed"]), node("Conv", ["normed", "weight"], ["y"])),
    ]
    values = {
        "two": np.float32(2),
        "axis": np.array([1]),
        "least": np.float32(1e-6),
        "weight": np.eye(3, dtype=np.float32)[:, :, None, None],
    }
    shown, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 2, 2]) for name in ("images", "y"))
    graph = helper.make_graph(nodes, "rms", [shown], [made], [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()])
    model = fp16.to_fp16(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), Heads(outputs=("y",)))
    onnx.save(model, tmp_path / "half.onnx")
    with HalfSession(tmp_path / "half.onnx") as session:
        (found,) = session.heads(np.full((1, 3, 2, 2), 20_000, np.float32), ("y",))
        assert np.allclose(found, 1, atol=1e-3)
        assert {"x", "normed", "factor"} <= session.largest.keys()
