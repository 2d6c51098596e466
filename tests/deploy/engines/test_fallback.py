"""Int8 within a limit: a poisoned layer is found, returned to float, and named."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import artifact_samples as samples
import onnx
import onnx_samples
import pytest
from onnxruntime.quantization.calibrate import HistogramCalibrater
from poisoned_samples import deeper, unlabel
from pydantic import ValidationError

from deploy.accuracy.judge import judge
from deploy.contract import Heads
from deploy.engines import maps
from deploy.engines.fallback import search
from deploy.errors import ArtifactError, BuildError, DataError
from deploy.precision import LayerError
from deploy.precision.int8 import Quantizer
from deploy.precision.sensitivity import rank
from deploy.runtimes import Compiled, Session, ort
from deploy.runtimes.onnx_files import engine
from stages.artifacts import Engine
from stages.measurement.calibration_images import CalibrationImages
from stages.optimize import optimize

LIMIT = 0.01
EFFECTS = tuple(LayerError(f"layer{i}", 1 / (i + 1)) for i in range(20))


def counted(needed: int) -> tuple[Callable[[frozenset[str]], float], list[int]]:
    """A judge that is satisfied with so many layers in float, and the numbers that it was asked about."""
    asked: list[int] = []

    def answer(layers: frozenset[str]) -> float:
        assert layers == {effect.layer for effect in EFFECTS[: len(layers)]}
        asked.append(len(layers))
        return 0.6 if len(layers) >= needed else 0.4 + 0.001 * len(layers)

    return answer, asked


@pytest.mark.parametrize("needed", range(20))
def test_the_fewest_layers_are_found_in_few_trials(needed: int) -> None:
    answer, asked = counted(needed)
    found = search(20, lambda: EFFECTS, answer, 0.605, LIMIT)
    assert found.float_layers == tuple(effect.layer for effect in EFFECTS[:needed])
    assert (found.map, found.float_map, found.num_layers) == (0.6, 0.605, 20)
    assert len(asked) == len(set(asked)) <= 10
    assert [point.num_float for point in found.tried] == asked


def test_a_limit_that_no_int8_can_meet_is_refused_with_the_best_point() -> None:
    answer, _ = counted(20)
    with pytest.raises(BuildError, match=r"max_map_drop 0\.01: mAP is 0\.6050 in float and at best 0\.4190 with 19 of 20 layers in float"):
        search(20, lambda: EFFECTS, answer, 0.605, LIMIT)


def test_a_drop_of_exactly_the_limit_passes() -> None:
    assert search(20, lambda: EFFECTS, lambda _: 0.5, 0.75, 0.25).float_layers == ()


def test_layers_are_looked_at_only_where_one_has_to_go_back() -> None:
    def never() -> tuple[LayerError, ...]:
        raise AssertionError("this takes minutes")

    found = search(20, never, lambda _: 0.6, 0.605, LIMIT)
    assert (found.num_layers, found.float_layers, found.effects, len(found.tried)) == (20, (), (), 1)


def optimized(root: Path, *, poisoned: bool, runtime: str = "ort", **options: object) -> Engine:
    out = root / "engine"
    out.mkdir(parents=True)
    config = samples.target(runtime=runtime, precision="int8", **options)
    judged = "val" if config.max_map_drop is not None else None
    return optimize(out, config, samples.model(root / "onnx", deeper(poisoned=poisoned)), samples.dataset(root / "data", 12), judged)


@pytest.mark.parametrize("runtime", ["ort", "openvino", "trt_rtx"])
def test_the_poisoned_place_is_found_and_returned_to_float(tmp_path: Path, runtime: str) -> None:
    """trt_rtx builds for a GPU that is not here; its limit is judged on its typed graph in ONNX Runtime."""
    options = {"compute_capability": "8.9"} if runtime == "trt_rtx" else {}
    if runtime != "ort":
        pytest.importorskip({"trt_rtx": "tensorrt_rtx"}.get(runtime, runtime))
    facts = optimized(tmp_path / "limited", poisoned=True, runtime=runtime, max_map_drop=LIMIT, **options).facts
    assert facts.fallback is not None
    assert facts.fallback.tried[0].num_float == 0
    assert facts.fallback.float_map == 1
    assert facts.fallback.tried[0].map < 0.7, "int8 alone must exceed the limit"
    assert "second" in facts.fallback.float_layers
    assert set(facts.fallback.float_layers) <= {"first", "second"}
    assert facts.fallback.map >= 1 - LIMIT
    assert facts.proof["convolutions_int8"] == 5 - len(facts.fallback.float_layers)
    assert {name for name, _ in facts.fallback.effects[:1]} <= {"first", "second"}


def test_a_sound_graph_keeps_all_its_int8(tmp_path: Path) -> None:
    facts = optimized(tmp_path, poisoned=False, max_map_drop=LIMIT).facts
    assert facts.fallback is not None
    assert facts.fallback.float_layers == ()
    assert facts.proof["convolutions_int8"] == 5
    assert [point.num_float for point in facts.fallback.tried] == [0]


def test_a_limit_without_objects_to_judge_on_is_refused(tmp_path: Path) -> None:
    data = samples.dataset(tmp_path / "data", 12)
    unlabel(data)
    out = tmp_path / "engine"
    out.mkdir()
    with pytest.raises(DataError, match=r"max_map_drop 0\.01 cannot be judged: the split's images have no objects"):
        optimize(out, samples.target(precision="int8", max_map_drop=LIMIT), samples.model(tmp_path / "onnx"), data, "val")
    assert not list(out.iterdir())


def test_a_runtime_that_cannot_build_here_says_so_before_anything_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.runtimes.nvidia.session.why_not_installed", lambda package, extra: f"{package} is not installed: {extra}")
    monkeypatch.setattr("deploy.engines.maps.judge", None)  # not asked
    facts = optimized(tmp_path, poisoned=True, runtime="trt", max_map_drop=LIMIT).facts
    assert (facts.file, facts.why) == (None, "tensorrt is not installed: tensorrt")


def test_the_engine_that_was_judged_is_the_one_that_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two builds of one graph may differ, where a compiler chooses by timing."""
    judged: list[bytes] = []
    opened = ort.open

    def note(file: Path, *, threads: int | None = None, options: Mapping[str, Any]) -> Session:
        judged.append(file.read_bytes())
        return opened(file, threads=threads, options=options)

    written = engine.write

    def differently(typed: Path, heads: Heads, out: Path) -> Compiled:
        made = written(typed, heads, out)
        model = onnx.load(made.file)
        model.doc_string = str(len(judged))
        onnx.save(model, made.file)
        return made

    monkeypatch.setattr(ort, "open", note)
    monkeypatch.setattr(engine, "write", differently)
    built = optimized(tmp_path, poisoned=True, max_map_drop=LIMIT)
    assert built.file("engine.onnx").read_bytes() in judged


def test_an_int8_engine_whose_answer_cannot_be_used_goes_back_to_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(predictor: Any, split: Any, label: str) -> Any:
        if label == "int8, 0 layers in float":
            raise ArtifactError("NMS did not converge")
        return judge(predictor, split, label)

    monkeypatch.setattr(maps, "judge", judged)
    facts = optimized(tmp_path, poisoned=True, max_map_drop=LIMIT).facts
    assert facts.fallback is not None
    assert (facts.fallback.tried[0].map, "second" in facts.fallback.float_layers) == (0, True)


def test_without_a_limit_nothing_is_tried(tmp_path: Path) -> None:
    assert optimized(tmp_path, poisoned=True).facts.fallback is None


def test_a_limit_on_float_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"max_map_drop limits how much mAP int8 may lose, but precision is fp32"):
        samples.target(precision="fp32", max_map_drop=0.01)


@pytest.mark.parametrize("ranges", ["min_max", "entropy", "percentile"])
def test_every_way_to_read_ranges_builds(tmp_path: Path, ranges: str) -> None:
    assert optimized(tmp_path, poisoned=False, ranges=ranges).facts.proof["convolutions_int8"] == 5


@pytest.mark.parametrize(("number", "held"), [(12, 4), (6, 3), (7, 1)])
def test_the_tensors_of_few_images_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, held: int) -> None:
    """At 640 px those of 128 images are 38 GiB."""
    counts: list[int] = []
    clear = HistogramCalibrater.clear_collected_data

    def note(calibrator: Any) -> None:
        counts.append(len(calibrator.intermediate_outputs))
        clear(calibrator)

    monkeypatch.setattr(HistogramCalibrater, "clear_collected_data", note)
    data = samples.dataset(tmp_path / "data", number)
    calibration = CalibrationImages(data, samples.target(calibration_images=number), onnx_samples.contract().preprocessing)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    quantizer = Quantizer(deeper(poisoned=False), onnx_samples.HEADS, calibration, ort.INTEGERS, "entropy", scratch)
    quantizer.quantized(quantizer.layers)
    assert counts == [held] * (number // held)


def test_the_rank_is_that_of_each_layer_alone(tmp_path: Path) -> None:
    data = samples.dataset(tmp_path / "data", 32)
    calibration = CalibrationImages(data, samples.target(calibration_images=32), onnx_samples.contract().preprocessing)
    heads = Heads(outputs=onnx_samples.HEADS.outputs)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    quantizer = Quantizer(deeper(poisoned=True), heads, calibration, ort.INTEGERS, "min_max", scratch)
    assert quantizer.layers == ("first", "second", "same_0", "same_1", "same_2")
    effects = rank(quantizer, heads, calibration)
    assert {effect.layer for effect in effects[:2]} == {"first", "second"}
    assert all(effect.error > 100 * effects[2].error for effect in effects[:2])
