"""ONNX Runtime and OpenVINO: what both promise."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_samples
import pytest
from engine_samples import CELLS, FOUND, compiled, found, images
from onnx import TensorProto, helper, numpy_helper
from places import ROOT

from deploy import machine, plugins
from deploy.contract import MaskFrame
from deploy.errors import ArtifactError, RuntimeUnavailable
from deploy.machine import packages
from deploy.precision import Precision
from deploy.runtimes import PACKAGE, ort

HEADS = onnx_samples.HEADS


@pytest.fixture(params=["ort", "openvino"])
def runtime(request: pytest.FixtureRequest) -> Any:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return plugins.load("deploy.runtimes", request.param)


def build(runtime: Any, folder: Path, chosen: Precision, **sample: Any) -> Path:
    model = onnx_samples.write(folder / "model.onnx", **sample)
    return compiled(name_of(runtime), model, folder, chosen, [images(CELLS), images({(1, 1): 1})]).file


def name_of(runtime: Any) -> str:
    return str(runtime.__name__).rpartition(".")[2]


@pytest.mark.parametrize("chosen", ["fp32", "fp16", "int8"])
def test_every_precision_finds_the_same_boxes(runtime: Any, tmp_path: Path, chosen: Precision) -> None:
    with runtime.open(build(runtime, tmp_path, chosen), threads=1) as session:
        assert found(session.infer(images(CELLS))) == FOUND


@pytest.mark.parametrize(
    ("chosen", "counts"), [("fp32", (4, 0, 0)), ("fp16", (0, 4, 0)), ("int8", (2, 0, 2))], ids=["fp32", "fp16", "int8"]
)
def test_the_file_proves_its_precision_and_stays_float_after_the_head(
    runtime: Any, tmp_path: Path, chosen: Precision, counts: tuple[int, ...]
) -> None:
    model = onnx_samples.write(tmp_path / "model.onnx")
    proof = compiled(name_of(runtime), model, tmp_path, chosen, [images(CELLS)]).proof
    assert tuple(proof[f"convolutions_{name}"] for name in ("fp32", "fp16", "int8")) == counts
    assert proof["low_precision_after_head"] == 0


def test_weights_are_so_narrow_that_two_products_fit_16_bits(runtime: Any, tmp_path: Path) -> None:
    """A processor without VNNI adds two products of an unsigned and a signed byte in 16 bits, and cuts off what does not fit."""
    graph = onnx.load(build(runtime, tmp_path, "int8")).graph
    weights = [
        numpy_helper.to_array(one).astype(int) for one in graph.initializer if one.data_type == TensorProto.INT8 and len(one.dims) == 4
    ]
    assert len(weights) == 2
    most = max(abs(one).max() for one in weights)
    assert 2 * 255 * most <= 2**15 - 1 < 4 * 255 * most


def test_openvino_says_what_it_computes_in_which_on_a_cpu_is_no_half(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    runtime = plugins.load("deploy.runtimes", "openvino")
    floats = {"convolutions_fp32": 4}
    expected: dict[Precision, dict[str, int]] = {
        "fp32": floats,
        "fp16": floats,
        "int8": {"convolutions_fp32": 2, "convolutions_int8": 2},
    }
    for chosen, counts in expected.items():
        with runtime.open(build(runtime, tmp_path, chosen), threads=1) as session:
            assert session.proof() == {}  # nothing is compiled yet
            session.infer(images(CELLS))
            assert session.proof() == counts


def test_batches_and_memory_of_ones_own(runtime: Any, tmp_path: Path) -> None:
    with runtime.open(build(runtime, tmp_path, "fp32"), threads=1) as session:
        both = session.infer(images(CELLS, {}))
        assert found(both, 0) == FOUND
        assert found(both, 1) == set()
        assert both.converged.tolist() == [True, True]
        kept = both.boxes.copy()
        session.infer(images({}, {}))
        assert np.array_equal(both.boxes, kept)
        assert found(session.infer(images(CELLS))) == FOUND
        types = (both.boxes.dtype, both.scores.dtype, both.labels.dtype, both.converged.dtype)
        assert types == (np.float32, np.float32, np.int64, np.bool_)


@pytest.mark.parametrize("chosen", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("mask_frame", ["box", "image"])
def test_masks_are_answered_where_the_graph_has_them(runtime: Any, tmp_path: Path, chosen: Precision, mask_frame: MaskFrame) -> None:
    model = onnx_samples.write(tmp_path / "model.onnx", mask_frame=mask_frame)
    file = compiled(name_of(runtime), model, tmp_path, chosen, [images(CELLS)]).file
    with runtime.open(file, threads=1) as session:
        raw = session.infer(images(CELLS, {}))
    side = onnx_samples.BOX_MASK if mask_frame == "box" else 16
    assert raw.masks is not None
    assert raw.masks.shape == (2, onnx_samples.MAX_DETECTIONS, side, side)
    assert raw.masks.dtype == np.float32
    shares = (raw.masks[0, :3] > 0.5).mean(axis=(1, 2))
    assert shares.tolist() == [0.5 if mask_frame == "box" else 1 / 16] * 3
    with runtime.open(build(runtime, tmp_path, "fp32"), threads=1) as session:
        assert session.infer(images(CELLS)).masks is None


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "truncated"])
def test_a_damaged_engine_is_refused_in_one_line(runtime: Any, tmp_path: Path, content: Any, capfd: pytest.CaptureFixture[str]) -> None:
    file = build(runtime, tmp_path, "fp32")
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(ArtifactError, match=r"engine\.onnx: not an engine") as caught:
        runtime.open(file)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_missing_or_foreign_engine_is_refused(runtime: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        runtime.open(tmp_path / "engine.onnx")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    other = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(other, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "other.onnx")
    with pytest.raises(ArtifactError, match="not an edgedistill engine"):
        runtime.open(tmp_path / "other.onnx")


def test_a_wrong_image_size_is_refused(runtime: Any, tmp_path: Path) -> None:
    with runtime.open(build(runtime, tmp_path, "fp32"), threads=1) as session, pytest.raises(ArtifactError, match="failed on images"):
        session.infer(np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.parametrize(("name", "pip"), [("ort", '"edgedistill"'), ("openvino", r'"edgedistill\[openvino\]"')])
def test_a_missing_package_is_named_with_its_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, pip: str) -> None:
    runtime = plugins.load("deploy.runtimes", name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailable, match=f"is not installed: pip install {pip}$"):
        runtime.open(tmp_path / "engine.onnx")
    assert re.search(f"is not installed: pip install {pip}$", runtime.why_not())


@pytest.mark.parametrize(
    ("runtime", "distribution"),
    [("ncnn", "pnnx"), ("trt", "cuda-bindings"), ("trt_rtx", "cuda-bindings"), ("ort", "nvidia-cudnn-cu12")],
)
def test_identity_tells_whether_what_an_engine_needs_is_installed(runtime: str, distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = plugins.load(PACKAGE, runtime)
    monkeypatch.setattr(machine, "gpu", lambda: {"gpu": "NVIDIA L4"})
    found = []
    for installed in (None, "1.0", "1.1"):
        monkeypatch.setattr(packages, "version", lambda name, known=installed: known if name == distribution else None)
        found.append(plugin.identity())
    assert found[0] != found[1] != found[2]
    assert all(plugin.foreign(one) is None for one in found)


def test_identity_names_version_and_processor_without_loading_anything() -> None:
    code = "import sys; from deploy.runtimes import openvino, ort, trt, trt_rtx; [m.identity() for m in (openvino, ort, trt, trt_rtx)];"
    code += "print([m for m in ('openvino', 'onnxruntime', 'onnx', 'tensorrt', 'tensorrt_rtx', 'cuda') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "[]\n"
    assert ort.identity()["onnxruntime"].startswith("onnxruntime")
    assert ort.identity()["cpu"]


def test_running_an_engine_needs_neither_torch_nor_onnx(runtime: Any, tmp_path: Path) -> None:
    file = build(runtime, tmp_path, "int8")
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "onnx", "onnxscript", "torchvision", "pycocotools"), None))
from pathlib import Path
import numpy as np
from deploy import predict
from deploy.bundles import bundle
from {runtime.__name__} import open
with open(Path({str(file)!r}), threads=1) as session:
    print(session.infer(np.zeros((1, 3, 64, 64), np.float32)).scores.shape)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout == "(1, 8)\n"
    assert answer.stderr == ""


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_asked_for_by_name_is_there_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    file = build(ort, tmp_path, "fp32")
    with ort.open(file, threads=1, options={"provider": "cpu"}) as session:
        assert isinstance(session, ort.OrtSession)
        assert session.provider == "CPUExecutionProvider"
    monkeypatch.setattr("deploy.machine.gpu", dict)
    with pytest.raises(RuntimeUnavailable, match=rf"provider {provider}: ONNX Runtime has no \w+ on this machine; choose auto or cpu"):
        ort.open(file, options={"provider": provider})
    # compiled in, but without its libraries: ONNX Runtime would go on with the CPU
    monkeypatch.setattr("deploy.machine.gpu", lambda: {"gpu": "one"})
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(ort._CHAINS["tensorrt"]))
    with pytest.raises(RuntimeUnavailable, match="does not start on this machine"):
        ort.open(file, options={"provider": provider})
