"""The report as a reader and a browser get it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run_samples

from pipeline import report, report_boxes, report_charts, report_pictures, report_plots, report_words
from pipeline.flow import RunResult
from pipeline.report import write_report
from pipeline.report_boxes import Object
from pipeline.report_plots import Engine
from pipeline.summary import summarize
from stages.artifacts import Checkpoint, CheckpointFacts, write_facts

SECTIONS = ("results", "tradeoff", "latency", "training", "classes", "curves", "pictures", "attention", "stages", "reproduce")
VOID = {"meta", "link", "img", "br", "line", "path", "rect", "circle", "use", "image"}
FETCHING = {"src", "href", "srcset", "xlink:href", "action", "data", "poster"}
HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Tags, attributes and text of a page; the nesting checked on the way."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, name: str) -> Iterator[str]:
        return (value for _, attributes in self.tags if (value := attributes.get(name)) is not None)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    root = tmp_path_factory.mktemp("run")
    return run_samples.run(root / "run", run_samples.dataset(root / "data"))


def written(run: RunResult, folder: Path) -> str:
    file = folder / "report.html"
    write_report(run, file)
    assert [path.name for path in folder.iterdir() if "report" in path.name] == ["report.html"]
    return file.read_text(encoding="utf-8")


def with_accuracy(network: Checkpoint, root: Path, **changes: Any) -> Checkpoint:
    """A copy of a checkpoint's facts alone, its accuracy changed."""
    root.mkdir(parents=True)
    facts = network.facts
    accuracy = facts.accuracy.model_copy(update=changes)
    write_facts(root, CheckpointFacts.model_validate({**facts.model_dump(), "accuracy": accuracy.model_dump()}))
    return Checkpoint(root)


class TestPage:
    def test_opens_offline_and_is_small(self, sample: RunResult, tmp_path: Path) -> None:
        text = written(sample, tmp_path)
        page = Page(text)
        fetched = [value for name in FETCHING for value in page.attributes(name)]
        assert fetched
        assert all(value.startswith(("#", "data:")) for value in fetched)
        assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", text))
        assert "url(" not in text
        assert "@import" not in text
        assert {"script", "iframe", "object", "embed"}.isdisjoint(tag for tag, _ in page.tags)
        assert len(text.encode()) < 3_000_000

    def test_has_every_section_and_no_dead_link(self, sample: RunResult, tmp_path: Path) -> None:
        page = Page(written(sample, tmp_path))
        ids = list(page.attributes("id"))
        assert set(SECTIONS) <= set(ids)
        assert len(ids) == len(set(ids))
        assert {value[1:] for value in page.attributes("href") if value.startswith("#")} <= set(ids)
        assert "empty" not in page.attributes("class")

    def test_every_picture_and_chart_is_described(self, sample: RunResult, tmp_path: Path) -> None:
        page = Page(written(sample, tmp_path))
        assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
        pictures = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("aria-hidden") != "true"]
        assert len(pictures) > 30
        assert all(attributes.get("role") == "img" and attributes.get("aria-label") for attributes in pictures)

    def test_shows_the_summary_s_figures(self, sample: RunResult, tmp_path: Path) -> None:
        summary = summarize(sample)
        text = Page(written(sample, tmp_path)).text
        for name in ("teacher", "baseline", "student"):
            for figure in ("map", "map_50", "map_75"):
                assert f"{summary[name][figure]:.3f}" in text
        assert f"{summary['gain_map'] * 100:+.1f} points of mAP" in text
        assert f"{summary['gap_closed'] * 100:.0f} % of the teacher's lead" in text
        for name, target in summary["targets"].items():
            assert name in text
            if target["why"] is None:
                assert f"{target['map']:.3f}" in text
                assert f"{target['latency_ms']['end_to_end']['p99']:.2f}" in text
            else:
                assert target["why"] in text
        for gate in summary["gates"]:
            assert gate["limit"].replace(">=", "≥").replace("<=", "≤") in text
        for stage in summary["stages"]:
            assert stage["instance"] in text

    def test_is_the_same_twice_but_for_its_date(self, sample: RunResult, tmp_path: Path) -> None:
        one, other = written(sample, tmp_path), written(sample, tmp_path)
        stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
        assert re.sub(stamp, "", one) == re.sub(stamp, "", other)

    def test_escapes_names_that_are_markup(self, tmp_path: Path) -> None:
        data = run_samples.dataset(tmp_path / "data", (HOSTILE, '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}"))
        text = written(run_samples.run(tmp_path / "run", data), tmp_path)
        page = Page(text)
        assert "<script" not in text
        assert not list(page.attributes("onerror"))
        assert HOSTILE in page.text
        assert "{{ 7 * 7 }}" in page.text


class TestMissingParts:
    def test_nothing_measured(self, tmp_path: Path) -> None:
        run = run_samples.run(tmp_path / "run", run_samples.dataset(tmp_path / "data"), gates=())
        page = Page(written(run_samples.without_measurements(run), tmp_path))
        assert "No engine could be measured on this machine." in page.text
        assert page.text.count(run_samples.WHY) == 3
        assert "No gate is configured" in page.text

    def test_undefined_accuracy_and_no_detections(self, sample: RunResult, tmp_path: Path) -> None:
        undefined = dict.fromkeys(("map", "map_50", "map_75"))
        nothing = {"per_class": dict.fromkeys(sample.dataset.facts.contract.classes)}
        teacher, baseline, student = (
            with_accuracy(network, tmp_path / f"{number}", **undefined, **nothing)
            for number, network in enumerate((sample.teacher, sample.baseline, sample.student))
        )
        (student.root / "detections.json").write_text("[]")
        text = Page(written(replace(sample, teacher=teacher, baseline=baseline, student=student), tmp_path)).text
        assert "Accuracy is undefined" in text
        assert "No network was trained" in text
        assert "No attention map was kept" in text
        assert "0 found, 3 missed" in text

    def test_one_epoch_and_blank_cells(self, tmp_path: Path) -> None:
        run = run_samples.run(tmp_path / "run", run_samples.dataset(tmp_path / "data"), epochs=1)
        (run.teacher.root / "curves.csv").write_text("epoch,loss,grad_norm\n1,,nan\n2,0.5,inf\n")
        assert report_plots.read_curves(run.teacher.root / "curves.csv") == {"loss": [(2.0, 0.5)]}
        assert "attention/feature" in Page(written(run, tmp_path)).text

    def test_images_that_are_gone(self, tmp_path: Path) -> None:
        run = run_samples.run(tmp_path / "run", run_samples.dataset(tmp_path / "data"))
        (run.dataset.images("val") / "1.png").unlink()
        (run.dataset.images("val") / "3.png").write_bytes(b"no image")
        assert "2 of 6 images could not be read any more." in Page(written(run, tmp_path)).text

    def test_of_many_classes_those_that_changed_most(self, sample: RunResult, tmp_path: Path) -> None:
        rows = [report.ClassRow(f"{i}", 0.9, 0.5, 0.5 + i / 500, i / 500) for i in range(-50, 50)]
        shown = report.most_changed([*rows, report.ClassRow("absent", None, None, None, None)])
        half = report.MOST_CLASSES // 2
        assert [row.name for row in shown] == [str(i) for i in (*range(49, 49 - half, -1), *range(half - 51, -51, -1))]
        assert report.most_changed(rows[: 2 * half]) == rows[: 2 * half]

    def test_more_classes_than_curves(self, tmp_path: Path) -> None:
        data = run_samples.dataset(tmp_path / "data", [f"thing {i}" for i in range(25)], num_images=12)
        text = Page(written(run_samples.run(tmp_path / "run", data), tmp_path)).text
        assert "The 12 weakest classes" in text


class TestHeadline:
    @staticmethod
    def summary(sample: RunResult, **changes: Any) -> dict[str, Any]:
        return {**json.loads(json.dumps(summarize(sample))), **changes}

    @pytest.mark.parametrize(
        ("code", "tone", "words"),
        [(0, "pass", "All 3 gates passed"), (5, "fail", "required"), (10, "fail", "0 of 3 gates failed"), (11, "open", "inconclusive")],
    )
    def test_verdict(self, sample: RunResult, code: int, tone: str, words: str) -> None:
        said = report_words.headline(self.summary(sample, exit_code=code))
        assert said.tone == tone
        assert words in said.verdict

    @pytest.mark.parametrize(
        ("gain", "closed", "words"),
        [
            (0.031, 0.24, "3.1 points above the same network trained alone, 24 % of the way up to the teacher"),
            (0.2, 1.5, "20.0 points above the same network trained alone, above even the teacher"),
            (-0.02, -0.1, "2.0 points below the same network trained alone."),
            (0.0001, 0.001, "as much as the same network trained alone"),
            (0.05, None, "5.0 points above the same network trained alone."),
        ],
    )
    def test_gain_in_words(self, sample: RunResult, gain: float, closed: float | None, words: str) -> None:
        said = report_words.headline(self.summary(sample, gain_map=gain, gap_closed=closed))
        assert words in said.sentences[0]

    def test_the_fastest_engine_is_one_that_passed(self, sample: RunResult) -> None:
        summary = self.summary(sample)
        assert report_words.fastest(summary) == "cpu-int8"
        for gate in summary["gates"]:
            gate["verdict"] = "fail" if gate["target"] == "cpu-int8" else gate["verdict"]
        assert report_words.fastest(summary) == "cpu-fp32"

    @pytest.mark.parametrize(
        ("value", "words"), [(0.5, "0.5 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (251, "4 min 11 s"), (7325, "2 h 02 min"), (None, "–")]
    )
    def test_duration(self, value: float | None, words: str) -> None:
        assert report_words.duration(value) == words

    def test_minus_is_a_minus(self) -> None:
        assert report_words.points(-0.0123) == "−1.2"
        assert report_words.percent(-0.1) == "−10 %"


class TestCharts:
    def test_pareto_front(self) -> None:
        a, b, c, d = (
            Engine(*values) for values in (("a", "student", 0.3, 1), ("b", "student", 0.5, 2), ("c", "s", 0.5, 3), ("d", "s", 0.2, 1))
        )
        assert report_plots.pareto([d, c, b, a]) == [a, b]

    @pytest.mark.parametrize("spread", [0.05, 1.0, 30.0])
    @pytest.mark.parametrize("width", [380, 900])
    def test_labels_do_not_overlap_and_stay_inside(self, spread: float, width: int) -> None:
        random = np.random.default_rng(0)
        engines = [Engine(f"target-{i}", "student", 0.4 + random.random() * spread / 100, 3 + random.random() * spread) for i in range(7)]
        chart = report_plots.tradeoff([*engines, Engine("teacher", "teacher", 0.6, 40)], width, 430)
        assert chart is not None
        boxes = [report_charts.label_box(label) for label in chart.labels]
        assert len(boxes) == 8
        for one, other in combinations(boxes, 2):
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        left, top, right, bottom = chart.frame
        assert all(left <= x1 and top <= y1 and x2 <= right and y2 <= bottom for x1, y1, x2, y2 in boxes)

    @pytest.mark.parametrize(
        ("low", "high", "log", "texts"),
        [
            (0, 1, False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
            (0.0, 0.0007, False, ["0", "2e-4", "4e-4", "6e-4"]),
            (0.0, 0.0015, False, ["0", "5e-4", "1e-3", "1.5e-3"]),
            (3, 50, True, ["3", "5", "10", "20", "30", "50"]),
            (4.0, 4.4, True, ["4", "4.1", "4.2", "4.3", "4.4"]),
            (0, 52000, False, ["0", "20k", "40k"]),
        ],
    )
    def test_ticks_are_round(self, low: float, high: float, log: bool, texts: list[str]) -> None:
        assert [tick.text for tick in report_charts.Scale(low, high, 0, 100, log).ticks(6 if log else 5)] == texts

    def test_one_engine_and_a_constant(self) -> None:
        assert report_plots.tradeoff([Engine("only", "student", 0.0, 2.0)], 380, 300) is not None
        assert report_plots.tradeoff([], 380, 300) is None
        assert report_charts.extent([3, 3]) == (2.7, 3.3)


NAMES = {1: "cat", 2: "dog"}


class TestBoxes:
    def test_each_object_is_found_once_by_the_surest_box_of_its_class(self) -> None:
        truth = [Object((0, 0, 10, 10), 1), Object((20, 0, 30, 10), 2)]
        found = [
            Object((0, 0, 10, 10), 1, 0.6),
            Object((0, 0, 10, 9), 1, 0.9),
            Object((20, 0, 30, 10), 1, 0.8),
            Object((20, 0, 30, 10), 2, report_boxes.SCORE - 0.01),
        ]
        view = report_boxes.judge("student", truth, found, NAMES)
        assert (view.found, view.wrong, view.missed) == (1, 2, 1)
        assert [box.words for box in view.boxes if box.kind == "found"] == ["cat 0.90"]

    def test_boxes_in_a_crowd_are_neither_found_nor_wrong(self) -> None:
        crowd = Object((0, 0, 100, 100), 1, crowd=True)
        view = report_boxes.judge("student", [crowd], [Object((10, 10, 20, 20), 1, 0.9), Object((10, 10, 20, 20), 2, 0.9)], NAMES)
        assert (view.found, view.wrong, view.missed) == (0, 1, 0)

    def test_iou(self) -> None:
        assert report_boxes.iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
        assert report_boxes.iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0

    def test_tags_stay_on_the_picture(self) -> None:
        view = report_boxes.judge("student", [], [Object((90, 95, 100, 100), 1, 0.9), Object((0, 0, 5, 5), 2, 0.8)], NAMES)
        tags = [box.tag for box in report_boxes.tagged(view, 100, 100).boxes]
        assert all(tag and tag.x >= 0 and tag.y >= 0 and tag.x + tag.width <= 100 and tag.y + tag.height <= 100 for tag in tags)

    def test_attention_covers_the_image_and_not_the_padding(self, tmp_path: Path) -> None:
        data = run_samples.dataset(tmp_path, size=(48, 64))
        pixels = np.zeros((64, 48, 3), np.uint8)
        attention = np.zeros((8, 12), np.float32)
        attention[:, 3:9] = 1
        shown = report_pictures.over_image(attention, pixels, data)
        assert shown.shape == (64, 48)
        assert shown[:, 8:40].min() > 0.9
        assert report_pictures.correlation(shown, shown) == pytest.approx(1)
        assert report_pictures.correlation(shown, np.ones_like(shown)) is None
