import hashlib
import json
from pathlib import Path

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest

from deploy import machine
from deploy.errors import BuildError, DataError
from deploy.precision import Batch
from deploy.runtimes import fingerprint, ort, trt_rtx
from stages.artifacts import Engine
from stages.measurement.calibration_images import CalibrationImages
from stages.optimize import identity, optimize


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_facts_describe_the_file(tmp_path: Path, precision: str) -> None:
    engine = samples.engine(tmp_path, samples.target(precision=precision, calibration_images=3))
    facts = Engine(engine.root).facts
    content = engine.file("engine.onnx").read_bytes()
    assert (facts.file, facts.bytes, facts.sha256) == ("engine.onnx", len(content), hashlib.sha256(content).hexdigest())
    assert (facts.target, facts.runtime, facts.precision, facts.why) == ("here", "ort", precision, None)
    assert facts.proof["low_precision_after_head"] == 0
    assert facts.fingerprint["onnx_sha256"] == facts.onnx_sha256
    assert facts.fingerprint["onnxruntime"] == ort.identity()["onnxruntime"]
    assert facts.contract == onnx_samples.contract()


def test_the_same_input_gives_the_same_engine(tmp_path: Path) -> None:
    first = samples.engine(tmp_path / "1", samples.target(precision="int8"))
    second = samples.engine(tmp_path / "2", samples.target(precision="int8"))
    assert first.facts == second.facts


def test_an_engine_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    config = samples.target(runtime="trt_rtx", precision="fp16", compute_capability="8.9")
    facts = samples.engine(tmp_path, config).facts
    assert facts.file == "engine.plan"
    assert facts.proof["convolutions_fp16"] == onnx_samples.NUM_CONVOLUTIONS
    assert facts.proof["convolutions_fp32"] == facts.proof["low_precision_after_head"] == 0
    assert facts.fingerprint["compute_capability"] == "8.9"
    assert facts.options["compute_capability"] == "8.9"


def test_an_engine_for_another_gpu_does_not_bear_this_ones_name(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"gpu": "RTX 3090", "driver": "580.65", "compute_capability": "8.6"}
    monkeypatch.setattr(machine, "gpu", lambda: here)
    assert fingerprint("trt_rtx", {"compute_capability": 8.9}).keys() == {"tensorrt_rtx", "compute_capability"}
    assert fingerprint("trt_rtx", {"compute_capability": "12.0"})["compute_capability"] == "12.0"
    assert fingerprint("trt_rtx", {"compute_capability": "current"}).items() >= here.items()
    assert "compute capability 8.9, this machine has 8.6" in str(trt_rtx.foreign(fingerprint("trt_rtx", {"compute_capability": 8.9})))


@pytest.mark.parametrize("required", [False, True])
def test_a_runtime_that_is_not_here_is_a_fact_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: bool) -> None:
    monkeypatch.setattr("deploy.runtimes.nvidia.session.why_not_installed", lambda package, extra: f"{package} is not installed: {extra}")
    facts = samples.engine(tmp_path, samples.target(runtime="trt", precision="fp16", required=required)).facts
    assert (facts.file, facts.sha256, facts.bytes, facts.required) == (None, None, None, required)
    assert facts.why == "tensorrt is not installed: tensorrt"


def test_a_graph_that_cannot_be_built_is_an_error_that_names_the_target(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(BuildError, match=r"target here: .*compute capability 1\.2") as caught:
        samples.engine(tmp_path, samples.target(runtime="trt_rtx", compute_capability="1.2"))
    assert caught.value.exit_code == 5


def test_a_damaged_graph_is_an_error(tmp_path: Path) -> None:
    model = samples.model(tmp_path / "model")
    (model.root / "model.onnx").write_bytes(b"\xff\xff")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BuildError, match="not an ONNX file"):
        optimize(out, samples.target(), model, samples.dataset(tmp_path / "data"))


def every(images: CalibrationImages) -> list[Batch]:
    return [images[index] for index in range(len(images))]


def test_calibration_images_are_spread_over_the_train_split_and_come_again(tmp_path: Path) -> None:
    dataset = samples.dataset(tmp_path, num_images=6)
    images = CalibrationImages(dataset, samples.target(calibration_images=3), onnx_samples.contract().preprocessing)
    first, second = every(images), every(images)
    assert len(first) == 3
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == (1, 3, 64, 64)
    assert first[0].dtype == np.float32
    more = every(CalibrationImages(dataset, samples.target(calibration_images=100), onnx_samples.contract().preprocessing))
    assert len(more) == 6
    assert np.array_equal(first[-1], more[-1])


def test_ranges_may_be_read_from_another_split_that_is_there(tmp_path: Path) -> None:
    dataset = samples.dataset(tmp_path / "data")
    target = samples.target(calibration_split="val", calibration_images=100, precision="int8")
    images = every(CalibrationImages(dataset, target, onnx_samples.contract().preprocessing))
    train = every(CalibrationImages(dataset, samples.target(calibration_images=100), onnx_samples.contract().preprocessing))
    assert not all(np.array_equal(a, b) for a, b in zip(images, train, strict=True))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError, match=r"no split 'vall' \(did you mean val\?\): the data has train, val"):
        optimize(out, samples.target(calibration_split="vall", precision="int8"), samples.model(tmp_path / "model"), dataset)


def test_identity_is_the_runtimes_and_plain_json(tmp_path: Path) -> None:
    found = identity(samples.target(), samples.model(tmp_path / "m"), samples.dataset(tmp_path / "d"))
    assert json.loads(json.dumps(dict(found))) == ort.identity()
    assert machine.gpu().items() <= found.items()
    chosen = identity(samples.target(precision="auto"), samples.model(tmp_path / "n"), samples.dataset(tmp_path / "e"), "val")
    assert chosen == {**found, "cores": machine.num_cores()}
