import json
from pathlib import Path

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
from onnx import numpy_helper

from deploy.accuracy.drift import Drift
from stages.artifacts import Checkpoint, Dataset, Engine, OnnxModel, Report
from stages.config import LatencyConfig, TargetConfig, ValidationConfig
from stages.facts import ParityStep, write_facts
from stages.optimize import optimize
from stages.parity import NOTABLE, culprit, parity
from stages.validate import validate

QUICK = ValidationConfig(latency=LatencyConfig(warmup=0, min_passes=1, min_seconds=0))


class Forms:
    """The sample detector as the flow has it before parity."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dataset: Dataset = samples.dataset(root / "data")
        self.model: OnnxModel = samples.model(root / "model")
        _, self.plain = self.target("float", optimization="none")
        self.student: Checkpoint = samples.checkpoint(root / "student")
        accuracy = self.plain.facts.accuracy
        assert accuracy is not None
        write_facts(self.student.root, self.student.facts.model_copy(update={"accuracy": accuracy}))
        (self.student.root / "detections.json").write_bytes((self.plain.root / "detections.json").read_bytes())

    def target(self, name: str, model: OnnxModel | None = None, **options: object) -> tuple[Engine, Report]:
        config = TargetConfig.model_validate({"runtime": "ort", **options, "name": name})
        engine, report = self.root / f"engine-{name}", self.root / f"report-{name}"
        engine.mkdir()
        report.mkdir()
        built = optimize(engine, config, model or self.model, self.dataset)
        return built, validate(report, QUICK, built, self.dataset)

    def parity(
        self, built: Engine, report: Report, config: ValidationConfig = QUICK, tuned: Checkpoint | None = None
    ) -> dict[str, ParityStep]:
        out = self.root / f"parity-{built.facts.target}"
        out.mkdir()
        self.facts = parity(out, config, self.student, self.plain, built, report, self.dataset, tuned).facts
        return {step.name: step for step in self.facts.steps}


@pytest.fixture
def forms(tmp_path: Path) -> Forms:
    return Forms(tmp_path)


def test_a_float_engine_has_lost_nothing(forms: Forms) -> None:
    steps = forms.parity(*forms.target("cpu"))
    assert list(steps) == ["student", "onnx", "engine"]
    assert steps["student"].drift is None
    assert all(step.map == 1 for step in steps.values())
    assert steps["engine"].drift is not None
    assert steps["engine"].drift.matched == 1
    assert (forms.facts.culprit, forms.facts.why) == (None, None)


def test_half_is_computed_in_half_and_its_largest_values_named(forms: Forms) -> None:
    steps = forms.parity(*forms.target("half", precision="fp16"))
    assert list(steps) == ["student", "onnx", "typed", "engine"]
    assert "reference evaluator" in steps["typed"].how
    assert steps["typed"].map == 1
    assert steps["typed"].largest["features"] > 0
    assert not steps["onnx"].largest


def test_half_is_computed_on_some_of_the_images_and_all_forms_are_judged_on_those(forms: Forms) -> None:
    steps = forms.parity(*forms.target("half", precision="fp16"), QUICK.model_copy(update={"parity_images": 2}))
    assert forms.facts.num_images == 2
    assert {step.map for step in steps.values()} == {steps["student"].map}
    forms.parity(*forms.target("cpu"), QUICK.model_copy(update={"parity_images": 2}))
    assert forms.facts.num_images == 6


def test_an_overflow_in_half_is_a_finding_and_no_error(forms: Forms) -> None:
    graph = onnx_samples.detector()
    for weight in graph.graph.initializer:
        if weight.name == "stem_weight":
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(60_000), weight.name))
    built, report = forms.target("half", samples.model(forms.root / "large", graph), precision="fp16")
    steps = forms.parity(built, report)
    assert steps["typed"].map is None
    assert steps["typed"].why is not None
    assert "is not finite in half precision" in steps["typed"].why
    assert (forms.facts.culprit, list(steps)) == ("typed", ["student", "onnx", "typed", "engine"])
    assert steps["engine"].drift is not None


def test_what_cannot_run_here_is_followed_as_far_as_its_graph(forms: Forms) -> None:
    pytest.importorskip("tensorrt_rtx")
    steps = forms.parity(*forms.target("gpu", runtime="trt_rtx", precision="fp16", compute_capability="8.9"))
    assert list(steps) == ["student", "onnx", "typed"]
    assert steps["typed"].map == 1
    assert forms.facts.why is not None


def test_the_step_that_lost_accuracy_is_named(forms: Forms) -> None:
    built, report = forms.target("cpu", precision="int8")
    graph = onnx_samples.detector()
    for weight in graph.graph.initializer:
        if weight.name == "class_bias":  # an engine that calls everything blue
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.array([0, 0, 30], np.float32), weight.name))
    _, spoiled = forms.target("spoiled", samples.model(forms.root / "spoiled", graph))
    steps = forms.parity(built, spoiled)
    assert steps["typed"].map == 1
    assert steps["engine"].map is not None
    assert steps["engine"].map < 0.9
    assert forms.facts.culprit == "engine"
    assert json.loads((forms.root / "parity-cpu" / "artifact.json").read_text())["culprit"] == "engine"
    assert report.facts.accuracy is not None


def test_the_int8_that_was_not_kept_has_a_row_with_which_nothing_is_compared(forms: Forms) -> None:
    tuned = samples.checkpoint(forms.root / "tuned")
    (tuned.root / "other_int8.json").write_text("[]")
    built, report = forms.target("cpu", precision="int8")
    steps = forms.parity(built, report, tuned=tuned)
    assert list(steps) == ["student", "onnx", "other_int8", "typed", "engine"]
    assert steps["other_int8"].map == 0
    assert steps["other_int8"].how == "trained for int8, not kept, ONNX Runtime, not optimized"
    assert steps["typed"].drift is not None
    assert steps["typed"].drift.matched == 1
    assert forms.facts.culprit is None


LOSSES = [((0.5, 0.5), None), ((0.5, 0.5 - NOTABLE / 2), None), ((0.5, 0.4, 0.1), "typed"), ((0.5, 0.3, 0.2), "onnx")]


@pytest.mark.parametrize(("maps", "worst"), LOSSES)
def test_only_a_notable_loss_has_a_culprit(maps: tuple[float, ...], worst: str | None) -> None:
    moved = Drift(matched=1, box_mean_px=0, box_max_px=0, score_mean=0, score_max=0)
    names = ("student", "onnx", "typed")
    steps = [
        ParityStep.model_validate({"name": name, "how": "", "map": value, "map_50": value, "drift": moved, "largest": {}})
        for name, value in zip(names, maps, strict=False)
    ]
    assert culprit(steps) == worst
