"""Graphs are typed once, from images that are read once, before the runtime is asked."""

from collections import Counter
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx
import onnx_samples
import pytest
from engine_samples import builder, integers
from poisoned_samples import deeper

from deploy.engines import fastest
from deploy.errors import BuildError
from deploy.precision import Batch, Precision, RangeMethod, network
from deploy.precision.proof import proof
from deploy.precision.sensitivity import EVERY
from deploy.runtimes import Compiled, openvino, ort
from deploy.runtimes.onnx_files import engine
from stages.artifacts import Engine
from stages.measurement.calibration_images import CalibrationImages
from stages.optimize import optimize

NUM_IMAGES = 12


def optimized(root: Path, graph: onnx.ModelProto | None = None, **options: Any) -> Engine:
    out = root / "out"
    out.mkdir(parents=True)
    config = samples.target(**options)
    judged = "val" if config.is_judged else None
    return optimize(out, config, samples.model(root / "onnx", graph), samples.dataset(root / "data", NUM_IMAGES), judged)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each calibration image is read."""
    counts: Counter[int] = Counter()
    original = CalibrationImages.__getitem__

    def counted(images: CalibrationImages, index: int) -> Batch:
        counts[index] += 1
        return original(images, index)

    monkeypatch.setattr(CalibrationImages, "__getitem__", counted)
    return counts


def calibration() -> list[Batch]:
    random = np.random.default_rng(0)
    return [random.random((1, 3, 64, 64), np.float32) for _ in range(4)]


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_all_trials_of_a_limit_have_one_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Counter[int], precision: str
) -> None:
    times = {f"ort {one}": 1.0 + (one != "int8") for one in ("fp32", "fp16", "int8")}
    monkeypatch.setattr(fastest, "measure_together", lambda *_: samples.measured(times))
    facts = optimized(tmp_path, deeper(poisoned=True), precision=precision, max_map_drop=0.01).facts
    assert facts.fallback is not None
    assert len(facts.fallback.tried) > 1
    expected = {index: 1 + (index % EVERY == 0) for index in range(NUM_IMAGES)}  # a few are read again to rank the layers
    assert dict(read) == expected


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_floats_read_no_image(tmp_path: Path, read: Counter[int], precision: str) -> None:
    optimized(tmp_path, precision=precision)
    assert not read


@pytest.mark.parametrize("ranges", ["min_max", "entropy", "percentile"])
def test_a_graph_does_not_depend_on_those_written_before_it(tmp_path: Path, ranges: RangeMethod) -> None:
    """The ranges that the first one leaves behind are exactly those that it used."""
    after = optimized(tmp_path / "after", deeper(poisoned=True), precision="int8", max_map_drop=0.01, ranges=ranges)
    assert after.facts.fallback is not None
    assert len(after.facts.fallback.tried) > 1
    data = samples.dataset(tmp_path / "data", NUM_IMAGES)
    images = CalibrationImages(data, samples.target(), onnx_samples.contract().preprocessing)
    fresh = builder("ort", tmp_path / "after" / "onnx" / "model.onnx", tmp_path, images, ranges=ranges)
    alone = fresh.compiled("int8", frozenset(after.facts.fallback.float_layers))
    assert alone.file.read_bytes() == after.file("engine.onnx").read_bytes()


def test_each_graph_and_engine_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Path] = []
    original = ort.compile

    def noted(typed: Path, *more: Any, **options: Any) -> Compiled:
        compiled.append(typed)
        return original(typed, *more, **options)

    monkeypatch.setattr(ort, "compile", noted)
    made = builder("ort", onnx_samples.write(tmp_path / "model.onnx"), tmp_path, calibration())
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    for precision in (*precisions, *precisions):
        assert made.compiled(precision).file.read_bytes() == made.typed(precision).read_bytes()
    assert compiled == [made.typed(precision) for precision in precisions]
    assert compiled[0] == tmp_path / "model.onnx"


def test_a_runtime_gets_the_integers_that_it_wants(tmp_path: Path) -> None:
    (tmp_path / "expected").mkdir()
    model, images = onnx_samples.write(tmp_path / "model.onnx"), calibration()
    typed = builder("openvino", model, tmp_path, images).typed("int8")
    assert typed.read_bytes() == integers(onnx.load(model), images, openvino.INTEGERS, tmp_path / "expected").SerializeToString()


def test_a_runtime_without_integers_refuses_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ort, "INTEGERS")
    with pytest.raises(BuildError, match="target here: runtime ort computes in fp32 and fp16, not in int8; choose one of these"):
        optimized(tmp_path, precision="int8")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_runtime_that_cannot_build_is_asked_before_anything_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Counter[int], precision: str
) -> None:
    monkeypatch.setattr("deploy.precision.fp16.to_fp16", None)
    monkeypatch.setattr("deploy.runtimes.nvidia.session.why_not_installed", lambda package, extra: f"{package} is not installed: {extra}")
    for runtime in ("trt", "trt_rtx"):
        facts = optimized(tmp_path / runtime, runtime=runtime, precision=precision).facts
        assert (facts.file, facts.typed) == (None, None)
        assert facts.why is not None
        assert "is not installed" in facts.why
    assert not read


def test_without_the_onnx_package_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.engines.build.find_spec", lambda _: None)
    assert optimized(tmp_path).facts.why == 'onnx is not installed: pip install "edgedistill[build]"'


def test_an_engine_that_is_its_graph_is_kept_once_and_another_with_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same = optimized(tmp_path / "same", precision="int8")
    assert {path.name for path in same.root.iterdir()} == {"artifact.json", "engine.onnx"}
    assert same.facts.typed == "engine.onnx"
    written = engine.write

    def changed(*inputs: Any) -> Compiled:
        made = written(*inputs)
        made.file.write_bytes(made.file.read_bytes() + b"\x12\x00")  # an empty producer name: another file, the same graph
        return made

    monkeypatch.setattr(engine, "write", changed)
    other = optimized(tmp_path / "other", precision="int8")
    assert {path.name for path in other.root.iterdir()} == {"artifact.json", "engine.onnx", "typed.onnx"}
    assert other.facts.typed == "typed.onnx"
    assert other.file("typed.onnx").read_bytes() == same.file("engine.onnx").read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_plan_is_kept_with_the_graph_that_it_was_compiled_from(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    made = optimized(tmp_path, runtime="trt_rtx", precision=precision, compute_capability="8.9")
    assert {path.name for path in made.root.iterdir()} == {"artifact.json", "engine.plan", "typed.onnx"}
    assert made.facts.typed == "typed.onnx"
    found = proof(network.read(made.file("typed.onnx")), onnx_samples.HEADS)
    assert found == {**made.facts.proof}
