import pytest

from pipeline.results.summary import difference, gap_closed
from pipeline.results.table import _shown, grid, number, verdict_table


@pytest.mark.parametrize(
    ("teacher", "baseline", "student", "closed"),
    [
        (0.6, 0.4, 0.5, 0.5),
        (0.6, 0.4, 0.7, 1.5),
        (0.6, 0.4, 0.3, -0.5),
        (0.4, 0.4, 0.5, None),
        (0.3, 0.4, 0.5, None),
        (None, 0.4, 0.5, None),
        (0.6, None, 0.5, None),
        (0.6, 0.4, None, None),
    ],
)
def test_gap_closed(teacher: float | None, baseline: float | None, student: float | None, closed: float | None) -> None:
    assert gap_closed(teacher, baseline, student) == (closed if closed is None else pytest.approx(closed))


def test_difference_of_an_undefined_figure_is_undefined() -> None:
    assert (difference(0.5, 0.25), difference(None, 0.5), difference(0.5, None)) == (0.25, None, None)


def test_columns_line_up() -> None:
    assert grid(["a", "bb"], [["long", "1"], ["x", "200"]]) == "a      bb\n---------\nlong    1\nx     200"


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.5, "0.5000"), (0, "0.0000"), (123456.0, "123456"), (12.5, "12.5000")])
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_what_could_not_be_judged_is_said_below_the_table() -> None:
    gate = {"name": "fast", "target": "gpu", "metric": "bytes", "measured": None, "limit": "<= 3", "verdict": "unmeasured", "why": "no GPU"}
    assert verdict_table([gate]).splitlines()[-1] == "! gpu, gate fast: no GPU"


def test_masks_have_a_column_where_any_network_has_them() -> None:
    assert _shown([{"map": 0.5}, {"map": 0.4, "mask_map": None}], "map") == ["map"]
    assert _shown([{"map": 0.5}, {"map": 0.4, "mask_map": 0.3}], "map") == ["map", "mask_map"]
