"""What a reader learns of networks that had not finished learning: first page, chart, table, terminal and summary."""

import json
from collections.abc import Mapping
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import artifact_samples
import pytest
import run_samples
import tiny
from chart_labels import label_box

from deploy.bundles.card import model_card
from deploy.comparison.learning_curve import CurvePoint, LearningCurve
from deploy.contract import LastFifth
from pipeline.report.charts import apart
from pipeline.report.learning_plots import learning, learning_chart
from pipeline.report.page import write_report
from pipeline.report.words import headline
from pipeline.results.learning import learners, rising_lines
from pipeline.results.summary import summarize
from pipeline.results.table import render
from pipeline.run_result import RunResult
from stages.artifacts import Checkpoint
from stages.config import ExportConfig, StudentConfig
from stages.facts import write_facts
from stages.train import train_baseline

LEVEL = LastFifth(gain=0.002, low=-0.004, high=0.009, num_images=100)
RISING = LastFifth(gain=0.034, low=0.012, high=0.056, num_images=100)
GAVE = "+3.4 points on 100 images"
FIRST_PAGE = "A baseline that has not finished learning makes any teacher look good"


def curve(last_fifth: LastFifth | None, end: float = 0.6, **changes: Any) -> LearningCurve:
    """Five points up to `end`."""
    reached = (0.2, 0.5, 0.8, 0.9, 1.0)
    points = tuple(CurvePoint(step=100 * n, share=n / 5, map=end * share) for n, share in enumerate(reached, start=1))
    return LearningCurve.model_validate({"split": "val", "num_images": 100, "points": points, "last_fifth": last_fifth, **changes})


def with_curves(run: RunResult, curves: Mapping[str, LearningCurve | None]) -> RunResult:
    """The run, its networks with these curves."""
    for name, one in curves.items():
        network = run.networks[name]
        write_facts(network.root, network.facts.model_copy(update={"curve": one}))
    return run


@pytest.fixture
def sample(tmp_path: Path) -> RunResult:
    return run_samples.run(tmp_path / "run", run_samples.dataset(tmp_path / "data"))


def page(run: RunResult, folder: Path) -> tuple[str, str]:
    """The report's first page, which ends with the links to its sections, and the entire report."""
    write_report(run, folder / "report.html")
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text[text.index("<header>") : text.index("<nav")], text


def trained(root: Path, epochs: int, schedule: str) -> LearningCurve:
    """The curve of a small baseline that was trained on colored cells for this long."""
    data = artifact_samples.dataset(root / "cells", num_images=24)
    train = data.facts.splits["train"]
    write_facts(data.root, data.facts.model_copy(update={"splits": {"train": train, "val": train}}))
    options = {"batch_size": 8, "learning_rate": 2e-3, "warmup_steps": 4, "ema": None}
    config = StudentConfig(
        detector=tiny.detector({**tiny.STUDENT, "strides": (8,)}), train=tiny.schedule(epochs=epochs, schedule=schedule, **options)
    )
    (root / "out").mkdir()
    made: Checkpoint = train_baseline(root / "out", config, 0, "cpu", "val", data, ExportConfig(candidates=50, max_detections=10))
    found = made.facts.curve
    assert found is not None
    return found


class TestTrainings:
    @pytest.fixture(autouse=True)
    def enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("deploy.comparison.learning_curve.MIN_IMAGES", 16)  # of the 24 images, the others have no objects

    def test_a_baseline_stopped_early_is_named_on_the_first_page_in_the_terminal_and_in_the_summary(
        self, sample: RunResult, tmp_path: Path
    ) -> None:
        run = with_curves(sample, {"baseline": trained(tmp_path, 5, "constant")})
        first, text = page(run, tmp_path)
        assert "The baseline (+" in first
        assert "was still rising in the last fifth of its training." in first
        assert FIRST_PAGE in first
        assert 'id="learning"' in text
        summary = summarize(run)
        assert "! baseline: still rising when its training ended: the last fifth gave +" in render(summary)
        assert summary["baseline"]["curve"]["still_rising"] is True

    def test_one_trained_to_the_end_is_not(self, sample: RunResult, tmp_path: Path) -> None:
        run = with_curves(sample, {"baseline": trained(tmp_path, 40, "cosine")})
        first, text = page(run, tmp_path)
        assert "still rising" not in first
        assert "no longer rising</td>" in text
        summary = summarize(run)
        assert "still rising" not in render(summary)
        assert summary["baseline"]["curve"]["still_rising"] is False


class TestWords:
    @pytest.mark.parametrize(
        ("rising", "subject", "advice"),
        [
            (("baseline",), f"The baseline ({GAVE}) was", f"{FIRST_PAGE}: longer training may close part of the gain."),
            (
                ("teacher", "baseline", "student"),
                f"The teacher ({GAVE}), the baseline ({GAVE}) and the student ({GAVE}) were",
                f"{FIRST_PAGE}: longer training may close part of the gain.",
            ),
            (("student",), f"The student ({GAVE}) was", "Longer training may give more."),
        ],
    )
    def test_of_the_first_page(self, sample: RunResult, rising: tuple[str, ...], subject: str, advice: str) -> None:
        run = with_curves(sample, {name: curve(RISING if name in rising else LEVEL) for name in sample.networks})
        whose = "its" if len(rising) == 1 else "their"
        said = f"{subject} still rising in the last fifth of {whose} training. {advice}"
        assert said in headline(summarize(run)).sentences

    def test_of_the_terminal(self, sample: RunResult) -> None:
        run = with_curves(sample, {name: curve(RISING) for name in sample.networks})
        figures = "still rising when its training ended: the last fifth gave +0.034 map (+0.012 to +0.056, on 100 images)"
        assert rising_lines(summarize(run)) == [
            f"teacher: {figures}; longer training may make it teach more",
            f"baseline: {figures}; longer training may close part of the gain",
            f"baseline at equal cost: {figures}; longer training may close part of the gain",
            f"student: {figures}; longer training may raise the gain",
        ]

    @pytest.mark.parametrize("last_fifth", [None, LEVEL, RISING.model_copy(update={"num_images": 1})])
    def test_nothing_is_said_of_what_is_level_or_unknown(self, sample: RunResult, tmp_path: Path, last_fifth: LastFifth | None) -> None:
        run = with_curves(sample, {name: curve(last_fifth) for name in sample.networks})
        first, text = page(run, tmp_path)
        assert "still rising" not in first
        assert rising_lines(summarize(run)) == []
        wanted = {None: "undefined", 100: "no longer rising", 1: "1 images are too few to tell"}
        assert wanted[None if last_fifth is None else last_fifth.num_images] in text


class TestSummary:
    def test_has_every_point_and_the_verdict_as_strict_json(self, sample: RunResult) -> None:
        summary = summarize(with_curves(sample, {"baseline": curve(RISING)}))
        found = json.loads(json.dumps(summary, allow_nan=False))
        assert found["teacher"]["curve"] is None
        assert found["baseline"]["curve"] == {
            "split": "val",
            "num_images": 100,
            "points": [
                {"step": 100 * n, "share": n / 5, "map": pytest.approx(value), "why": None}
                for n, value in enumerate((0.12, 0.3, 0.48, 0.54, 0.6), start=1)
            ],
            "last_fifth": {"gain": 0.034, "low": 0.012, "high": 0.056, "num_images": 100},
            "still_rising": True,
        }

    def test_both_baselines_are_read_and_one_with_two_names_once(self, sample: RunResult) -> None:
        summary = summarize(with_curves(sample, {"baseline": curve(RISING), "student": curve(RISING)}))
        longer = {**summary["baseline"], "epochs": 80}
        both = learners({**summary, "baseline_equal_cost": longer, "teacher": None})
        assert [one.name for one in both] == ["baseline", "baseline at equal cost", "student"]
        assert [one.name for one in learners({**summary, "baseline_equal_cost": summary["baseline"]})] == ["baseline", "student"]

    def test_a_target_may_be_called_curve(self, tmp_path: Path) -> None:
        data = run_samples.dataset(tmp_path / "data")
        run = run_samples.run(tmp_path / "run", data, targets=[{"name": "curve", "runtime": "ort"}], gates=())
        summary = summarize(with_curves(run, {"student": curve(RISING)}))
        assert [one.name for one in learners(summary)] == ["student"]
        assert rising_lines(summary)[0].startswith("student: still rising")


class TestChart:
    def test_names_stand_at_the_ends_without_overlapping(self, sample: RunResult) -> None:
        run = with_curves(sample, {"teacher": curve(LEVEL, 0.6), "baseline": curve(RISING, 0.599), "student": curve(RISING, 0.598)})
        found = learning(summarize(run), [*run.networks])
        assert len(found["charts"]) == 2
        for chart in found["charts"]:
            boxes = [label_box(label) for label in chart.labels]
            assert {label.text for label in chart.labels} == {"teacher", "baseline", "student"}
            assert {label.detail for label in chart.labels} == {"0.600", "0.599, still rising", "0.598, still rising"}
            for one, other in combinations(boxes, 2):
                assert one[3] <= other[1] or other[3] <= one[1]
            assert all(box[0] > chart.frame[2] and box[2] <= chart.width for box in boxes)
            assert all(box[1] >= 0 and box[3] <= chart.frame[3] for box in boxes)

    def test_all_curves_share_the_axes(self, sample: RunResult) -> None:
        run = with_curves(sample, {"teacher": curve(LEVEL, 0.8), "baseline": curve(RISING, 0.4)})
        chart = learning_chart(learners(summarize(run)), 620)
        at = {mark.title: (mark.x, mark.y) for mark in chart.marks}
        teacher, baseline = (at[f"{name} after 100%"] for name in ("teacher: mAP 0.800", "baseline: mAP 0.400"))
        half_way = at["teacher: mAP 0.400 after 40%"]
        assert teacher[0] == baseline[0] == chart.frame[2]
        assert half_way[1] == baseline[1]

    def test_points_without_map_are_left_out_with_their_reason(self, sample: RunResult, tmp_path: Path) -> None:
        points = [CurvePoint(step=4, share=0.8, map=None, why="7.png is odd"), CurvePoint(step=5, share=1.0, map=0.3)]
        run = with_curves(sample, {"baseline": curve(None, points=points), "student": curve(None, points=[*points[:1]])})
        text = page(run, tmp_path)[1]
        assert "Baseline, after 80%: no mAP, because 7.png is odd" in text
        assert "Without a curve of mAP: teacher, baseline at equal cost." in text

    def test_runs_of_earlier_versions_have_no_chart(self, sample: RunResult, tmp_path: Path) -> None:
        text = page(sample, tmp_path)[1]
        assert 'id="learning"' not in text
        assert "Without a curve of mAP: teacher, baseline, baseline at equal cost, student." in text

    @pytest.mark.parametrize("places", [(), (5.0,), (1.0, 2.0, 3.0), (98.0, 99.0), (0.0, 50.0, 100.0), (50.0, 50.0, 50.0, 50.0)])
    def test_places_move_apart_as_little_as_needed(self, places: tuple[float, ...]) -> None:
        moved = apart(places, 20, 0, 100)
        assert all(later - earlier >= 20 for earlier, later in pairwise(moved))
        assert all(0 <= place <= 100 for place in moved)
        if all(later - earlier >= 20 for earlier, later in pairwise(places)):
            assert moved == [*places]


def test_the_model_card_says_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    made = artifact_samples.bundle(tmp_path / "plain")
    graph = made.manifest.graph
    network = graph.network.model_copy(update={"last_fifth": RISING})
    card = model_card(made.manifest.model_copy(update={"graph": graph.model_copy(update={"network": network})}))
    line = "| Training | mAP was still rising when it ended: the last fifth gave +0.034 mAP (+0.012 to +0.056) on 100 images |"
    assert line in card.splitlines()
    assert "still rising" not in model_card(made.manifest)
