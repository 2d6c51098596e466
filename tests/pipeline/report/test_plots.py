"""The report's plots and boxes, whose answers are known by hand."""

import base64
import io
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import run_samples
from chart_labels import label_box
from PIL import Image

from deploy.prediction.masks import encode
from pipeline.report import charts, history_page, pictures, plots
from pipeline.report.boxes import SCORE, MatchedObject, match_boxes, tagged
from pipeline.report.plots import EnginePoint


class TestCharts:
    def test_pareto_front(self) -> None:
        a, b, c, d = (
            EnginePoint(*values) for values in (("a", "student", 0.3, 1), ("b", "student", 0.5, 2), ("c", "s", 0.5, 3), ("d", "s", 0.2, 1))
        )
        assert plots.pareto([d, c, b, a]) == [a, b]

    @pytest.mark.parametrize("spread", [0.05, 1.0, 30.0])
    @pytest.mark.parametrize("width", [380, 900])
    def test_labels_do_not_overlap_and_stay_inside(self, spread: float, width: int) -> None:
        random = np.random.default_rng(0)
        engines = [
            EnginePoint(f"target-{i}", "student", 0.4 + random.random() * spread / 100, 3 + random.random() * spread) for i in range(7)
        ]
        chart = plots.tradeoff([*engines, EnginePoint("teacher", "teacher", 0.6, 40)], width, 430)
        assert chart is not None
        boxes = [label_box(label) for label in chart.labels]
        assert len(boxes) == 8
        for one, other in combinations(boxes, 2):
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        left, top, right, bottom = chart.frame
        assert all(left <= x1 and top <= y1 and x2 <= right and y2 <= bottom for x1, y1, x2, y2 in boxes)

    def test_words_end_where_their_mark_is_and_a_leader_only_ties_distant_ones(self) -> None:
        alone = charts.Mark("student", 80, 50, "")
        frame = (0, 0, 100, 100)
        (beside,) = charts.place_labels([alone], [("name", "0.5, 2 ms")], frame)
        assert (beside.anchor, beside.x, beside.leader) == ("end", 80 - charts.GAP, None)
        below = (0, 38, 100, 62)
        (distant,) = charts.place_labels([alone], [("name", "0.5, 2 ms")], frame, [below])
        assert distant.leader is not None
        assert label_box(distant)[3] <= 38

    @pytest.mark.parametrize("seed", [4, 13, 14, 65, 69])
    def test_leaders_of_a_handful_of_engines_do_not_run_through_words(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        marks = [charts.Mark("student", 150 + random.random() * 90, 200 + random.random() * 30, "") for _ in range(6)]
        labels = charts.place_labels(marks, [(f"engine-{i}", "0.512, 2.1 ms") for i in range(6)], (0, 0, 380, 380))
        assert len(labels) == 6
        boxes = [label_box(label) for label in labels]
        for label in labels:
            if label.leader:
                x0, y0, x1, y1 = map(float, label.leader.removeprefix("M").replace("L", ",").split(","))
                points = [(x0 + (x1 - x0) * n / 12, y0 + (y1 - y0) * n / 12) for n in range(3, 12)]
                assert not any(left < x < right and top < y < bottom for left, top, right, bottom in boxes for x, y in points)

    @pytest.mark.parametrize(
        ("low", "high", "log", "texts"),
        [
            (0, 1, False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
            (0.0, 0.0007, False, ["0", "2e-4", "4e-4", "6e-4"]),
            (0.0, 0.0015, False, ["0", "5e-4", "1e-3", "1.5e-3"]),
            (3, 50, True, ["3", "5", "10", "20", "30", "50"]),
            (4.0, 4.4, True, ["4", "4.1", "4.2", "4.3", "4.4"]),
            (0, 52000, False, ["0", "10k", "20k", "30k", "40k", "50k"]),
            (-2.5, 4.5, False, ["−2", "0", "2", "4"]),
            (58.0, 143.0, False, ["60", "80", "100", "120", "140"]),
            (0.0009, 0.0011, False, ["9e-4", "9.5e-4", "1e-3", "1.05e-3", "1.1e-3"]),
            (-0.0002, 0.0002, False, ["−2e-4", "−1e-4", "0", "1e-4", "2e-4"]),
            (123_456_000, 123_457_000, False, ["123.456M", "123.4562M", "123.4564M", "123.4566M", "123.4568M", "123.457M"]),
            (9_500, 10_500, False, ["9.6k", "9.8k", "10k", "10.2k", "10.4k"]),
            (0.003, 0.03, True, ["3e-3", "5e-3", "0.01", "0.02", "0.03"]),
        ],
    )
    def test_ticks_are_round(self, low: float, high: float, log: bool, texts: list[str]) -> None:
        assert [tick.text for tick in charts.AxisScale(low, high, 0, 100, log).ticks(6 if log else 5)] == texts

    def test_one_engine_and_a_constant(self) -> None:
        assert plots.tradeoff([EnginePoint("only", "student", 0.0, 2.0)], 380, 300) is not None
        assert plots.tradeoff([], 380, 300) is None
        assert charts.extent([3, 3]) == (2.7, 3.3)


class TestHistory:
    PAST = tuple({"time": f"2025-11-0{day}", "commit": None, "exit_code": 0} for day in range(1, 5))

    @pytest.mark.parametrize("width", history_page.WIDTHS)
    @pytest.mark.parametrize("num", [1, 3, 12])
    def test_names_and_figures_are_inside_one_below_the_other(self, width: int, num: int) -> None:
        series = {f"{n}, a target whose name is much longer than its plot": [None, 0.5, 0.6, 0.6 + n / 1000] for n in range(num)}
        chart = history_page.chart("map", self.PAST, {**series, "never measured": [None] * 4}, width)
        assert chart is not None
        boxes = [label_box(label) for label in chart.labels]
        assert len(boxes) == num
        assert all(left >= 0 and right <= width and top >= 0 and bottom <= chart.height for left, top, right, bottom in boxes)
        assert all(one[3] <= other[1] for one, other in pairwise(boxes))
        assert chart.frame[2] - chart.frame[0] >= 0.3 * width
        assert chart.marks[0].title == f"{next(iter(series))}, 2025-11-02: 0.5000"

    def test_figures_beside_the_axis_are_inside(self) -> None:
        for width in history_page.WIDTHS:
            chart = history_page.chart("bytes", self.PAST, {"a": [123_456_000, 123_456_300, 123_456_500, 123_457_000]}, width)
            assert chart is not None
            assert chart.frame[0] - 7 >= charts.DETAIL_PX * max(len(tick.text) for tick in chart.y_ticks)

    def test_small_screens_have_a_plot_too(self, tmp_path: Path) -> None:
        history_page.write_page("digits", "map", self.PAST, {"cpu": [0.1, 0.2, 0.3, 0.4]}, tmp_path / "history.html")
        page = (tmp_path / "history.html").read_text(encoding="utf-8")
        assert page.count('<svg class="chart broad"') == page.count('<svg class="chart narrow"') == 1


NAMES = {1: "cat", 2: "dog"}


class TestBoxes:
    def test_each_object_is_found_once_by_the_surest_box_of_its_class(self) -> None:
        truth = [MatchedObject((0, 0, 10, 10), 1), MatchedObject((20, 0, 30, 10), 2)]
        found = [
            MatchedObject((0, 0, 10, 10), 1, 0.6),
            MatchedObject((0, 0, 10, 9), 1, 0.9),
            MatchedObject((20, 0, 30, 10), 1, 0.8),
            MatchedObject((20, 0, 30, 10), 2, SCORE - 0.01),
        ]
        view = match_boxes("student", truth, found, NAMES)
        assert (view.found, view.wrong, view.missed) == (1, 2, 1)
        assert [box.words for box in view.boxes if box.kind == "found"] == ["cat 0.90"]

    def test_boxes_in_a_crowd_are_neither_found_nor_wrong(self) -> None:
        crowd = MatchedObject((0, 0, 100, 100), 1, crowd=True)
        view = match_boxes("student", [crowd], [MatchedObject((10, 10, 20, 20), 1, 0.9), MatchedObject((10, 10, 20, 20), 2, 0.9)], NAMES)
        assert (view.found, view.wrong, view.missed) == (0, 1, 0)

    def test_tags_stay_on_the_picture(self) -> None:
        view = match_boxes("student", [], [MatchedObject((90, 95, 100, 100), 1, 0.9), MatchedObject((0, 0, 5, 5), 2, 0.8)], NAMES)
        tags = [box.tag for box in tagged(view, 100, 100).boxes]
        assert all(tag and tag.x >= 0 and tag.y >= 0 and tag.x + tag.width <= 100 and tag.y + tag.height <= 100 for tag in tags)

    def test_masks_lie_over_the_picture_in_the_colors_of_their_boxes(self) -> None:
        found = [
            MatchedObject((0, 0, 10, 10), 1, 0.9, shape=encode(np.ones((10, 10), np.bool_), (20, 40))),
            MatchedObject((20, 0, 40, 20), 2, 0.8, shape=[[20, 0, 40, 0, 40, 20, 20, 20]]),
        ]
        truth = [
            MatchedObject((0, 0, 10, 10), 1, shape=found[0].shape),
            MatchedObject((12, 12, 18, 18), 2, shape=[[12, 12, 18, 12, 18, 18]]),
        ]
        shown = pictures.photo_of("a", np.zeros((20, 40, 3), np.uint8), [match_boxes("student", truth, found, NAMES)], masks=True)
        uri = shown.views[0].masks
        assert uri.startswith("data:image/png;base64,")
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        assert image.shape == (20, 40, 4)
        assert image[5, 5].tolist() == [255, 156, 74, 130]
        assert image[10, 30].tolist() == [255, 79, 154, 130]
        assert not image[12:18, 12:18].any(), "missed"
        assert not image[15, 5].any()

    def test_without_masks_nothing_lies_over_it(self) -> None:
        view = match_boxes("student", [], [MatchedObject((0, 0, 10, 10), 1, 0.9)], NAMES)
        assert pictures.photo_of("a", np.zeros((20, 40, 3), np.uint8), [view], masks=True).views[0].masks == ""

    def test_attention_covers_the_image_and_not_the_padding(self, tmp_path: Path) -> None:
        data = run_samples.dataset(tmp_path, size=(48, 64))
        pixels = np.zeros((64, 48, 3), np.uint8)
        attention = np.zeros((8, 12), np.float32)
        attention[:, 3:9] = 1
        shown = pictures.over_image(attention, pixels, data)
        assert shown.shape == (64, 48)
        assert shown[:, 8:40].min() > 0.9
        assert pictures.correlation(shown, shown) == pytest.approx(1)
        assert pictures.correlation(shown, np.ones_like(shown)) is None


def test_weights_that_were_found_have_a_panel_beside_the_shares() -> None:
    columns = ("loss", "attention/feature/8", "weighted/attention/feature/8", "share/attention/feature", "weight/attention/feature")
    terms, diagnostics = plots.training({"student": {name: [(1.0, 0.5), (2.0, 0.25)] for name in columns}})
    assert [panel.name for panel in terms] == ["loss", "attention/feature/8"]
    assert {panel.name: panel.figures["student"] for panel in diagnostics} == dict.fromkeys(columns[2:], 0.25)
