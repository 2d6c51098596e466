import json
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.results.history import rows


def test_rows_of_an_earlier_version_are_read_under_the_present_names(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    common = {"time": "2025-11-01T12:00:00+00:00", "commit": None, "exit_code": 0}
    figures = {"map": 0.5, "torch_drop_map": 0.25, "map/undistilled": 0.75}
    past = [{**common, "targets": {"torch_drop_map": figures}}, {**common, "targets": {"cpu": {"student_drop_map": 0.125}}}]
    file.write_text("".join(json.dumps(row) + "\n" for row in past))
    assert [row["targets"] for row in rows(file)] == [
        {"torch_drop_map": {"map": 0.5, "student_drop_map": 0.25, "map/undistilled": 0.75}},
        {"cpu": {"student_drop_map": 0.125}},
    ]


def test_runs_before_the_baseline_at_equal_cost_lack_its_gain(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    common = {"commit": None, "exit_code": 0}
    before = {"time": "2025-11-01T12:00:00+00:00", **common, "targets": {"cpu": {"gain_map": 0.05}}}
    after = {"time": "2025-12-01T12:00:00+00:00", **common, "targets": {"cpu": {"gain_map": 0.05, "gain_map_equal_cost": 0.01}}}
    file.write_text(f"{json.dumps(before)}\n{json.dumps(after)}\n")
    assert [row["targets"]["cpu"].get("gain_map_equal_cost") for row in rows(file)] == [None, 0.01]


def test_targets_without_figures_are_no_run(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_text(json.dumps({"time": "", "commit": None, "exit_code": 0, "targets": {"cpu": 3}}) + "\n")
    assert rows(file) == []


@pytest.mark.parametrize(("metric", "code"), [("map/dog", 0), ("map/dgo", 2), ("map@night", 2), ("mask_map", 0)])
def test_a_class_or_a_split_that_no_run_has_is_refused(
    tmp_path: Path, small_file: Path, capsys: pytest.CaptureFixture[str], metric: str, code: int
) -> None:
    past = {"time": "2026-11-01T12:00:00+00:00", "commit": None, "exit_code": 0, "targets": {"cpu": {"map": 0.5, "map/dog": 0.25}}}
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "history.jsonl").write_text(json.dumps(past) + "\n")
    assert cli.main(["history", str(small_file), "--runs", str(tmp_path), "--metric", metric]) == code
    assert code == 0 or "no past run has measured it; they have map/dog" in capsys.readouterr().err
