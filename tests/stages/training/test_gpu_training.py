"""benchmarks/gpu_training.py: on a GPU within eight minutes; its small form on any machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu_training.py"


def figures(folder: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SCRIPT), "--folder", str(folder), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any], variants: set[str]) -> None:
    assert found["variants"].keys() == variants, found["left_out"]
    for title, one in found["variants"].items():
        for step in ("plain", "distilled"):
            assert one[step]["images_per_s"] == pytest.approx(1000 * found["batch"] / one[step]["ms"], rel=0.01), title
        assert one["times_as_long"] > 1, "a distilled step does what a plain one does, and more"
        assert 0 < one["teacher_share"] < 1, title
    fastest = max(one["plain"]["images_per_s"] for one in found["variants"].values())
    assert found["cores_for_fastest_plain_step"] == pytest.approx(fastest / found["loader_images_per_s_per_core"], abs=0.06)


@pytest.mark.slow
def test_the_small_form_measures_everything_on_the_cpu(tmp_path: Path) -> None:
    check(figures(tmp_path, "--tiny", "--device", "cpu", "--batch", "2", "--seconds", "60"), {"fp32"})


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.timeout(600)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
def test_a_gpu_is_measured_within_eight_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(tmp_path)
    with capsys.disabled():
        print(json.dumps(found))  # noqa: T201 - this is what it is run for
    assert found["seconds"] <= 480
    check(found, {"bf16", "bf16, compiled", "fp32"})
    assert found["variants"]["bf16"]["plain"]["images_per_s"] > found["variants"]["fp32"]["plain"]["images_per_s"]
