"""The gains over both baselines, their intervals, and what is said of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import artifact_samples
import pytest
import run_samples

from deploy.comparison.gain import DistillationGain
from pipeline.baselines import Baselines
from pipeline.report.words import headline
from pipeline.results.gain_lines import figures_lines, legend, warnings
from pipeline.results.summary import summarize
from pipeline.results.table import render
from stages.artifacts import Checkpoint, Dataset, Gains, read_json

EPOCHS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return run_samples.dataset(tmp_path_factory.mktemp("data"), num_images=60)


class Networks:
    """Networks that find as much as they are told to; `longer` is the baseline at equal cost."""

    def __init__(self, root: Path, data: Dataset) -> None:
        self.root, self.data = root, data
        self.truth = read_json(data.annotations("val"))

    def trained(self, name: str, quality: float, epochs: int = EPOCHS) -> Checkpoint:
        found = run_samples.detections(self.truth, quality)
        return run_samples.checkpoint(self.root / name, self.data, self.truth, found, 1000, epochs, distilled=name == "student")

    def gain(self, steps: float | None, cost: float | None, student: float = 0.8, **more: Any) -> DistillationGain:
        baselines = Baselines(
            None if steps is None else self.trained("baseline", steps),
            None if cost is None else self.trained("longer", cost, 7),
            None if cost is None else artifact_samples.step_times(self.root / "times", 1.8),
            **more,
        )
        return run_samples.compared(
            self.root / "gains", self.data, self.trained("teacher", 0.95), self.trained("student", student), baselines
        ).facts


@pytest.fixture
def networks(tmp_path: Path, data: Dataset) -> Networks:
    return Networks(tmp_path, data)


def test_a_baseline_stopped_early_makes_the_gain_at_equal_steps_the_larger_one(networks: Networks) -> None:
    found = networks.gain(0.4, 0.76)
    assert found.equal_steps is not None
    assert found.equal_cost is not None
    assert found.equal_cost.gain is not None
    assert found.equal_steps.gain is not None
    assert found.equal_cost.gain < found.equal_steps.gain
    assert [equal for equal, _ in found.ordered()] == ["cost", "steps"]
    assert found.equal_steps.is_told
    assert (found.epochs, found.equal_steps.epochs, found.equal_cost.epochs) == (4, 4, 7)


def test_of_baselines_that_have_finished_learning_both_gains_agree_within_their_intervals(networks: Networks) -> None:
    found = networks.gain(0.72, 0.73)
    (_, one), (_, other) = found.ordered()
    for here, there in ((one, other), (other, one)):
        assert here.low is not None
        assert here.high is not None
        assert there.gain is not None
        assert here.low <= there.gain <= here.high


def test_an_interval_contains_its_gain_and_is_the_same_again(networks: Networks, tmp_path: Path, data: Dataset) -> None:
    one = networks.gain(0.6, 0.7)
    assert Networks(tmp_path / "again", data).gain(0.6, 0.7) == one
    for _, over in one.ordered():
        assert over.low is not None
        assert over.high is not None
        assert over.gain is not None
        assert over.low < over.gain < over.high


def test_too_few_images_have_no_interval_and_that_is_said_of_every_gain(tmp_path: Path) -> None:
    found = Networks(tmp_path / "run", run_samples.dataset(tmp_path / "data", num_images=19)).gain(0.4, 0.7)
    assert [(over.low, over.high, over.is_told) for _, over in found.ordered()] == [(None, None, False)] * 2
    assert warnings(found) == ["19 images are too few to tell any of these gains from 0; at least 20 are needed"]


def test_images_without_objects_do_not_make_up_for_others(tmp_path: Path) -> None:
    data = run_samples.dataset(tmp_path / "data", num_images=60)
    truth = read_json(data.annotations("val"))
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] <= 5]
    data.annotations("val").write_text(json.dumps(truth))
    found = Networks(tmp_path / "run", data).gain(0.4, 0.7)
    assert [(over.low, over.is_told) for _, over in found.ordered()] == [(None, False)] * 2
    assert None not in [over.gain for _, over in found.ordered()]
    assert warnings(found) == ["too few of the 60 images have objects to tell any of these gains from 0; at least 20 are needed"]
    assert "interval" not in figures_lines({"gain": found.model_dump(), "gap_closed": None, "gap_closed_equal_cost": None})[1]


@pytest.mark.parametrize(
    ("steps", "cost", "untold"),
    [(0.8, 0.8, "at equal cost or at equal steps"), (0.4, 0.8, "at equal cost"), (0.8, None, "at equal steps"), (0.4, 0.5, None)],
)
def test_gains_that_the_images_cannot_tell_from_0(networks: Networks, steps: float, cost: float | None, untold: str | None) -> None:
    expected = [] if untold is None else [f"60 images are too few to tell the gain {untold} from 0"]
    assert warnings(networks.gain(steps, cost)) == expected


def test_only_one_baseline(networks: Networks) -> None:
    found = networks.gain(0.4, None)
    assert (found.equal_cost, found.step_ratio, [equal for equal, _ in found.ordered()]) == (None, None, ["steps"])
    assert legend(found) == ["baseline: the student's network trained without the teacher, for as many steps"]


def test_only_the_baseline_at_equal_cost(networks: Networks) -> None:
    found = networks.gain(None, 0.4)
    assert (found.equal_steps, [equal for equal, _ in found.ordered()]) == (None, ["cost"])
    assert legend(found)[0] == "baseline: the student's network trained without the teacher, for as long"


def test_a_baseline_that_was_left_out_is_said_to_be(networks: Networks) -> None:
    found = networks.gain(0.4, None, left_out="it would take long")
    assert warnings(found) == ["there is no baseline at equal cost: it would take long"]


def test_an_undefined_map_has_no_gain(networks: Networks) -> None:
    found = networks.gain(0.4, 0.5)
    assert found.equal_cost is not None
    over = found.equal_cost.model_copy(update={"gain": None, "low": None, "high": None})
    blank = found.model_copy(update={"equal_cost": over})
    assert [equal for equal, _ in blank.ordered()] == ["cost", "steps"]
    line, _ = figures_lines({"gain": blank.model_dump(), "gap_closed_equal_cost": None})
    assert line.startswith("gain from distillation: - map at equal cost, +0.")


class TestFirstScreen:
    """The first sentences of a whole run's report and the lines of the terminal."""

    def said(self, root: Path, data: Dataset, steps: float, cost: float) -> tuple[str, str]:
        networks, sample = Networks(root, data), run_samples.run(root / "run", data)
        gain = networks.gain(steps, cost)
        baselines = Baselines(Checkpoint(root / "baseline"), Checkpoint(root / "longer"), sample.baselines.times)
        teacher, student, gains = Checkpoint(root / "teacher"), Checkpoint(root / "student"), Gains(root / "gains")
        run = replace(sample, teacher=teacher, baselines=baselines, student=student, gains=gains)
        summary = summarize(run)
        assert summary["gain"] == gain.model_dump(mode="json")
        return " ".join(headline(summary).sentences), render(summary)

    def test_says_that_the_baseline_had_not_finished_and_quotes_the_smaller_gain_first(self, tmp_path: Path, data: Dataset) -> None:
        report, terminal = self.said(tmp_path, data, 0.4, 0.76)
        assert "At equal steps the baseline had not finished learning: in 7 instead of 4 epochs it gains" in report
        assert "! at equal steps the baseline had not finished learning: in 7 instead of 4 epochs it gains" in terminal
        assert report.index("for as long") < report.index("for as many steps")
        assert terminal.index("at equal cost") < terminal.index("at equal steps")
        assert "of the gap to the teacher at equal cost" in terminal

    def test_claims_nothing_of_the_kind_of_baselines_that_agree(self, tmp_path: Path, data: Dataset) -> None:
        assert "had not finished learning" not in " ".join(self.said(tmp_path, data, 0.72, 0.73))

    def test_says_which_gains_the_images_cannot_tell_from_0(self, tmp_path: Path, data: Dataset) -> None:
        report, _ = self.said(tmp_path, data, 0.8, 0.8)
        assert "60 images are too few to tell the gain at equal cost or at equal steps from 0." in report
