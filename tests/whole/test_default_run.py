"""The default pipeline from images to bundles, as `make run` does it: what each conversion on the way may cost."""

import json
from typing import Any

import pytest
from places import ROOT

from deploy.precision.fp16 import HALF_MAX
from pipeline.cli import main


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runs = tmp_path_factory.mktemp("runs")
    assert main(["run", str(ROOT / "pipeline.yaml"), "--runs", str(runs)]) == 0
    found: dict[str, Any] = json.loads((runs / "digits" / "summary.json").read_text(encoding="utf-8"))
    return found


def steps(summary: dict[str, Any], target: str) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in summary["targets"][target]["parity"]["steps"]}


@pytest.mark.slow
def test_the_fp32_engine_is_as_accurate_as_torch(summary: dict[str, Any]) -> None:
    found = steps(summary, "cpu-fp32")
    assert found["student"]["map"] > 0.5
    assert abs(found["engine"]["map"] - found["student"]["map"]) <= 0.0005


@pytest.mark.slow
def test_int8_stays_within_its_limit(summary: dict[str, Any]) -> None:
    fallback = summary["targets"]["cpu-int8"]["fallback"]
    assert fallback["limit"] == 0.01
    assert fallback["float_map"] - summary["targets"]["cpu-int8"]["map"] <= 0.01
    assert summary["targets"]["cpu-int8"]["proof"]["convolutions_int8"] > 10


@pytest.mark.slow
def test_the_best_pair_is_within_its_limit_and_no_slower_than_the_fixed_targets(summary: dict[str, Any]) -> None:
    target = summary["targets"]["auto"]
    assert target["choice"]["float_map"] - target["map"] <= 0.01
    assert (target["runtime"], target["precision"]) == tuple(target["choice"]["pair"].split())
    pairs = {one["pair"]: one for one in target["choice"]["offers"]}
    assert {"ort fp32", "ort int8"} <= pairs.keys()
    for fixed in ("ort fp32", "ort int8"):
        assert pairs[fixed]["verdict"] in ("chosen", "tie", "slower")


@pytest.mark.slow
def test_fp16_in_true_half_is_as_accurate_and_everywhere_finite(summary: dict[str, Any]) -> None:
    found = steps(summary, "gpu-fp16")
    assert abs(found["typed"]["map"] - found["onnx"]["map"]) <= 0.002
    assert len(found["typed"]["largest"]) > 20
    assert 0 < found["typed"]["largest"][0]["value"] < HALF_MAX
