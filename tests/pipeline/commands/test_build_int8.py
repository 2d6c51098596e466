"""build on a device, of a bundle whose network was trained for int8: its ranges are used, without torch and without images."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import artifact_samples as samples
import onnx_samples
import pytest

from deploy.bundles.bundle import Bundle, write
from deploy.bundles.trust import Trust
from deploy.engines import int8_training
from deploy.engines.int8_training import INT8, Int8Training
from deploy.precision.int8 import Quantizer
from deploy.runtimes import ort
from pipeline.cli import main
from pipeline.commands import build
from stages.measurement.calibration_images import CalibrationImages

FIGURES: dict[str, Any] = {"split": "val", "num_images": 6, "epochs": 1, "float_map": 0.9, "post_training_map": 0.8, "trained_map": 0.9}
FIGURES |= {"gain": 0.1, "low": 0.05, "high": 0.15, "kept": True}


@pytest.fixture
def ranges(tmp_path: Path) -> dict[str, tuple[float, float]]:
    (tmp_path / "scratch").mkdir()
    images = samples.dataset(tmp_path / "cells")
    config = samples.target(precision="int8")
    read = CalibrationImages(images, config, onnx_samples.contract().preprocessing)
    quantizer = Quantizer(onnx_samples.detector(), onnx_samples.HEADS, read, ort.INTEGERS, "min_max", tmp_path / "scratch")
    quantizer.quantized(quantizer.layers)
    return dict(quantizer.ranges())


def bundle(folder: Path, training: Int8Training) -> Bundle:
    """An int8 bundle with these ranges."""
    made = samples.bundle(folder)
    int8_training.write(made.root, training)
    targets = (samples.target(precision="int8", int8={"finetune": True}),)
    plan = made.manifest.plan.model_copy(update={"targets": tuple(one.model_dump(mode="json") for one in targets)})
    return write(made.root, made.manifest.model_copy(update={"plan": plan}), [*made.manifest.files, INT8])


def test_it_is_built_without_images_and_keeps_its_ranges(
    tmp_path: Path, ranges: dict[str, tuple[float, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    training = Int8Training(**FIGURES, recipe=asdict(ort.INTEGERS), ranges=ranges)
    given = bundle(tmp_path / "given", training)
    assert main(["build", str(given.root), "--out", str(tmp_path / "here"), "--json"]) in {0, 12}
    answer = json.loads(capsys.readouterr().out)
    assert (answer["precision"], answer["int8"]["kept"], answer["int8"]["gain"]) == ("int8", True, 0.1)
    made = Bundle.load(tmp_path / "here")
    assert made.manifest.proof["convolutions_int8"] > 0
    assert made.manifest.int8 == training.figures
    assert (made.root / INT8).read_bytes() == (given.root / INT8).read_bytes()
    assert "trained for int8 over 1 epoch: mAP 0.9000, post-training int8 0.8000 (+10.0 points, +5.0 to +15.0); kept" in (
        made.root / "README.md"
    ).read_text(encoding="utf-8")


def test_ranges_are_read_from_the_copy_that_was_verified(tmp_path: Path, ranges: dict[str, tuple[float, float]]) -> None:
    made = bundle(tmp_path / "given", Int8Training(**FIGURES, recipe=asdict(ort.INTEGERS), ranges=ranges))
    given = Bundle.load(made.root, Trust.of([], made.digest))
    try:
        (given.root / INT8).write_text("{}")
        assert build._has_ranges(given, build.plan(given, None)[0])
    finally:
        given.close()


@pytest.mark.parametrize("limit", [None, 0.5])
def test_what_a_limit_is_measured_from_is_said(
    tmp_path: Path, ranges: dict[str, tuple[float, float]], capsys: pytest.CaptureFixture[str], limit: float | None
) -> None:
    given = bundle(tmp_path / "given", Int8Training(**FIGURES, recipe=asdict(ort.INTEGERS), ranges=ranges))
    target = samples.target(precision="int8", int8={"finetune": True}, max_map_drop=limit)
    carried = given.manifest.plan.model_copy(update={"targets": (target.model_dump(mode="json"),)})
    write(given.root, given.manifest.model_copy(update={"plan": carried}), given.manifest.files)
    assert main(["build", str(given.root), "--data", str(tmp_path / "cells"), "--out", str(tmp_path / "here")]) == 0
    said = "target here: the drop of mAP is measured from the trained network's own float graph"
    assert (said in capsys.readouterr().err) == (limit is not None)


def test_target_auto_trains_for_no_int8_and_is_built(
    tmp_path: Path, ranges: dict[str, tuple[float, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    given = bundle(tmp_path / "given", Int8Training(**FIGURES, recipe=asdict(ort.INTEGERS), ranges=ranges))
    command = ["build", str(given.root), "--target", "auto", "--data", str(tmp_path / "cells"), "--out", str(tmp_path / "here")]
    assert main(command) == 0, capsys.readouterr().err
    assert Bundle.load(tmp_path / "here").manifest.plan.targets[-1]["int8"] is None


@pytest.mark.parametrize("other", [{"kept": False}, {"recipe": asdict(replace(ort.INTEGERS, narrow_weights=False))}], ids=["kept", "kind"])
def test_ranges_for_something_else_are_not_used(
    tmp_path: Path, ranges: dict[str, tuple[float, float]], capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    training = Int8Training(**{**FIGURES, "recipe": asdict(ort.INTEGERS), "ranges": ranges, **other})
    given = bundle(tmp_path / "given", training)
    assert main(["build", str(given.root), "--out", str(tmp_path / "here")]) == 2
    assert "needs images to read ranges from" in capsys.readouterr().err


def test_damaged_ranges_are_refused_in_one_line(
    tmp_path: Path, ranges: dict[str, tuple[float, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    training = Int8Training(**FIGURES, recipe=asdict(ort.INTEGERS), ranges=ranges)
    given = bundle(tmp_path / "given", training)
    falling = training.model_dump_json().replace('"ranges":{', '"ranges":{"x":[2.0,1.0],')
    for content, reason in (("{", "Invalid JSON"), (falling, "x ranges from 2 down to 1")):
        (given.root / INT8).write_text(content, encoding="utf-8")
        write(given.root, given.manifest, given.manifest.files)
        assert main(["build", str(given.root), "--out", str(tmp_path / "here")]) == 4
        said = capsys.readouterr().err.strip().splitlines()
        assert f"{INT8}: not the ranges of an int8 network" in said[-1]
        assert reason in said[-1]
