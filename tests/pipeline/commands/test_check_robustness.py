"""What `edgedistill check` says of the section robustness, of splits that targets name, and of OpenCV."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from pipeline import cli


def check(capsys: pytest.CaptureFixture[str], *settings: str) -> tuple[int, Any]:
    small = ("train_images=8", "val_images=4", "test_images=1", "shifted_images=1")
    arguments = ["check", str(ROOT / "examples" / "small.yaml"), "--json", *(f"--set=data.{one}" for one in small)]
    code = cli.main([*arguments, *(f"--set={one}" for one in settings)])
    return code, json.loads(capsys.readouterr().out)


def test_a_split_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(capsys, "robustness.splits=[shiftet]")
    assert code == 3
    errors = [one["message"] for one in found["data"] if one["level"] == "error"]
    line = "robustness.splits: no split 'shiftet' (did you mean shifted?): the data has shifted, test, train, val"
    assert errors == [f"{line}; to go without, write splits: []"]


def test_a_split_to_read_ranges_from_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "runtime: ort, calibration_split: trian"
    code, found = check(capsys, f"targets=[{{name: a, {wrong}}}, {{name: b, {wrong}, precision: int8}}]")
    assert code == 3
    errors = [one["message"] for one in found["data"] if one["level"] == "error"]
    assert errors == ["targets.1.calibration_split: no split 'trian' (did you mean train?): the data has shifted, test, train, val"]


def test_a_gate_on_a_class_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(capsys, "gates=[{metric: map/7, min: 0}, {metric: map/77, min: 0}]")
    assert code == 3
    errors = [one["message"] for one in found["data"] if one["level"] == "error"]
    assert errors == ["gates.1.metric: no class '77' (did you mean 7?): the data has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"]


def test_a_missing_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.accuracy.corruptions.why_not", lambda: "not installed: pip install it")
    code, found = check(capsys, "robustness.corruptions=quick")
    assert code == 3
    assert "robustness.corruptions: not installed: pip install it" in [one["message"] for one in found["data"]]


def test_two_distributions_of_opencv_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    both = {"cv2": ["opencv-python", "opencv-python-headless", "opencv-python"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: both)
    assert cli.main(["check"]) == 0
    shown = capsys.readouterr().out
    assert "warning: opencv-python and opencv-python-headless are all OpenCV and overwrite one another's files; keep one: " in shown
    mend = "pip uninstall opencv-python opencv-python-headless && pip install opencv-python-headless"
    assert mend in shown


def test_one_is_no_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"cv2": ["opencv-python-headless"]})
    assert cli.main(["check"]) == 0
    assert "OpenCV" not in capsys.readouterr().out
