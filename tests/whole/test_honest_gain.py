"""Real trainings with both baselines: stopped early on purpose, and trained to the end."""

import json
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from pipeline.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

NETWORKS = ("teacher", "student")
TRAIN = {"learning_rate": 0.004, "ema": 0.98, "warmup_steps": 20}
OPTIONS = (
    *("data.val_images=150", "device=cpu", "baseline.equal=both", "teacher.detector.width=32"),
    *(f"{network}.train.{key}={value}" for network in NETWORKS for key, value in TRAIN.items()),
    *('targets=[{"name": "cpu", "runtime": "ort"}]', "validation.latency.budget_seconds=5"),
)


class Finished:
    """A run on so many images, with epochs of the teacher and of the student: its summary, what the terminal said, its report."""

    def __init__(self, runs: Path, images: int, epochs: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
        settings = (*OPTIONS, f"data.train_images={images}", *(f"{one}.train.epochs={epochs[n]}" for n, one in enumerate(NETWORKS)))
        command = [
            "run",
            str(ROOT / "examples" / "small.yaml"),
            "--runs",
            str(runs),
            *(word for one in settings for word in ("--set", one)),
        ]
        assert main(command) == 0
        self.terminal = capsys.readouterr().out
        self.summary: Any = json.loads((runs / "small" / "summary.json").read_text(encoding="utf-8"))
        self.report = (runs / "small" / "report.html").read_text(encoding="utf-8")

    @property
    def gain(self) -> dict[str, Any]:
        found: dict[str, Any] = self.summary["gain"]
        return found


def test_a_baseline_stopped_early_is_named_first_and_the_gain_at_equal_cost_is_the_smaller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Finished(tmp_path, 200, (40, 10), capsys)
    assert run.summary["gain_map_equal_cost"] < run.gain["equal_steps"]["low"]
    said = "at equal steps the baseline had not finished learning"
    assert said in run.terminal
    assert said in run.report.partition("<header>")[2].partition("<main>")[0].lower()
    line = next(line for line in run.terminal.splitlines() if line.startswith("gain from distillation"))
    assert line.index("at equal cost") < line.index("at equal steps")


def test_trained_to_the_end_both_gains_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Finished(tmp_path, 40, (120, 400), capsys)  # few images: whoever knows them by heart learns nothing in more epochs
    steps, cost = run.gain["equal_steps"], run.gain["equal_cost"]
    assert cost["epochs"] > 1.2 * steps["epochs"]
    assert steps["low"] <= cost["gain"] <= steps["high"]
    assert cost["low"] <= steps["gain"] <= cost["high"]
    assert "had not finished learning" not in run.terminal
