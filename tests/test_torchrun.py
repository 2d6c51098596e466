"""Two gloo processes train as one process does on the same global batches."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = Path(__file__).parents[1] / "examples" / "small.yaml"
OPTIONS = ["data.train_images=8", "teacher.train.epochs=5", "student.train.epochs=5", "device=cpu"]  # one step an epoch
BIN = Path(sys.executable).parent
TOLERANCE = 2e-4
"""Relative; float32 sums in another order, over five steps of AdamW."""
SHARES = 0.05
"""Relative, of shares of the gradient: each process takes the norms over its own images."""


def run(runs: Path, *launcher: str) -> str:
    settings = [word for option in OPTIONS for word in ("--set", option)]
    command = [*launcher, str(BIN / "edgedistill"), "run", str(SMALL), "--runs", str(runs), "--until", "distill", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def curves(runs: Path, stage: str) -> list[dict[str, float]]:
    (folder,) = runs.glob(f".store/{stage}-*")
    with (folder / "curves.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if name != "images_per_s" and value} for row in csv.DictReader(file)]


def test_two_processes_give_the_losses_of_one_step_for_step(tmp_path: Path) -> None:
    run(tmp_path / "one")
    torchrun = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node=2", "--no-python"]
    text = run(tmp_path / "two", *torchrun)
    assert text.count("prepare   ") == 2, "only the first process may speak"  # it starts, and it is done
    for stage in ("train_teacher", "train_baseline", "distill"):
        one, two = curves(tmp_path / "one", stage), curves(tmp_path / "two", stage)
        assert len(one) == len(two) == 5
        for step, (expected, got) in enumerate(zip(one, two, strict=True)):
            for name, value in expected.items():
                close = SHARES if name.startswith("share/") else TOLERANCE
                assert got[name] == pytest.approx(value, rel=close, abs=1e-6), f"{stage} step {step} {name}"
    artifacts = [
        sorted(path.name for path in (tmp_path / side / ".store").iterdir() if not path.name.startswith(".")) for side in ("one", "two")
    ]
    assert artifacts[0] == artifacts[1]
    leftovers = [path for path in (tmp_path / "two" / ".store").iterdir() if path.name.endswith(".partial")]
    assert not leftovers
    shutil.rmtree(tmp_path)
