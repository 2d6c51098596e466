"""The report's plots and boxes, whose answers are known by hand."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import run_samples

from pipeline.report import charts, pictures, plots
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
        boxes = [charts.label_box(label) for label in chart.labels]
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
        assert [tick.text for tick in charts.AxisScale(low, high, 0, 100, log).ticks(6 if log else 5)] == texts

    def test_one_engine_and_a_constant(self) -> None:
        assert plots.tradeoff([EnginePoint("only", "student", 0.0, 2.0)], 380, 300) is not None
        assert plots.tradeoff([], 380, 300) is None
        assert charts.extent([3, 3]) == (2.7, 3.3)


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
