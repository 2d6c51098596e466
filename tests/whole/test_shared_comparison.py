"""Real trainings, shared by real processes: the same table as by one process, bit for bit; on a GPU, a dozen on one card."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SMALL = ROOT / "examples" / "small.yaml"
OPTIONS = (
    *("data.train_images=16", "data.val_images=8", "data.test_images=1", "data.shifted_images=1"),
    *("teacher.train.epochs=4", "student.train.epochs=6"),
    *("compare.methods=[attention, channel_wise]", "compare.trials=2", "compare.seeds=2"),
)
MEASURED = ("time_steps-*", "weigh_steps-*")
"""What is measured once: figures of a different store differ, and with them the baseline of equal cost."""


def start(runs: Path, device: str, *more: str) -> subprocess.Popen[str]:
    settings = [word for option in (*OPTIONS, f"device={device}") for word in ("--set", option)]
    program = "import sys; from pipeline.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", program, "compare", str(SMALL), "--runs", str(runs), *settings, *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (runs.parent / f"{runs.name}.log").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str], runs: Path) -> None:
    assert process.wait(1800) == 0, (runs.parent / f"{runs.name}.log").read_text()


def drawn(runs: Path, device: str) -> dict[str, Any]:
    finish(start(runs, device), runs)
    found: dict[str, Any] = json.loads((runs / "small" / "compare.json").read_text())
    return found


def begin(runs: Path, device: str) -> None:
    """Measure the steps and train nothing."""
    runs.mkdir(parents=True)
    finish(start(runs, device, "--dry-run"), runs)


def copy_measured(source: Path, runs: Path) -> None:
    for pattern in MEASURED:
        for folder in (source / ".store").glob(pattern):
            shutil.copytree(folder, runs / ".store" / folder.name)


def kill_in_an_epoch(process: subprocess.Popen[str], runs: Path, seen: set[Path]) -> None:
    """Kill it once a training that is not in `seen` has saved an epoch."""
    until(lambda: [one for one in (runs / ".store").glob(".distill-*.partial/resume") if one.parent not in seen], "an epoch", 600)
    seen.update(one.parent for one in (runs / ".store").glob(".distill-*.partial/resume"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_three_processes_of_which_one_is_killed_twice(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    begin(alone, "cpu")
    copy_measured(alone, shared)
    processes = [start(shared, "cpu", "--share", "any") for _ in range(3)]
    seen: set[Path] = set()
    for _ in range(2):
        kill_in_an_epoch(processes[2], shared, seen)
        processes[2] = start(shared, "cpu", "--share", "any")
    for process in processes:
        finish(process, shared)
    log = (tmp_path / "shared.log").read_text()
    made = re.findall(r"^((?:distill|train_\w+|untrained_teacher)\S*.*?) +done in", log, re.MULTILINE)
    assert len(made) == len(set(made)) == 2 + 4 + 2 * 5
    assert "continues where it stopped" in log
    assert drawn(shared, "cpu") == drawn(alone, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_dozen_trainings_side_by_side_on_one_card(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    begin(shared, "cuda")
    began = time.monotonic()
    processes = [start(shared, "cuda", "--share", "any", "--set", "compare.seeds=4") for _ in range(12)]
    for process in processes:
        finish(process, shared)
    sys.stdout.write(f"24 trainings by 12 processes in {time.monotonic() - began:.0f} s\n")
    finish(start(shared, "cuda", "--set", "compare.seeds=4"), shared)
    found = json.loads((shared / "small" / "compare.json").read_text())
    assert len(found["seeds"]) == 4
    assert found["methods"][0]["cost"]["more_bytes"] > 0
