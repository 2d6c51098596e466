"""A run that is killed again and again, spread over every stage, ends bit for bit as an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from places import ROOT
from waiting import PATIENCE, until

pytestmark = pytest.mark.timeout(3600)  # a run is started a dozen times over
SMALL = ROOT / "examples" / "small.yaml"
PROGRAM = Path(sys.executable).with_name("edgedistill")
OPTIONS = (
    "baseline.equal=steps",  # the epochs of the other one follow from a measurement
    *("data.train_images=16", "data.val_images=8", "data.test_images=1", "data.shifted_images=1"),
    *("teacher.detector.strides=[8]", "student.detector.strides=[8]"),  # small graphs, for export takes most of the time
    *("teacher.train.epochs=4", "student.train.epochs=6", "student.train.workers=1", "device=cpu"),
    *(
        "validation.latency.warmup=0",
        "validation.latency.min_passes=4",
        "validation.latency.min_seconds=0",
        "validation.latency.ratio_width=100",
    ),
)
TIMEOUT = 900


def at_once(store: Path, pid: int) -> bool:
    return True


def after_a_second(store: Path, pid: int) -> bool:
    time.sleep(1)
    return True


def after_an_epoch(store: Path, pid: int) -> bool:
    return any(store.glob(".*.partial/resume"))


def with_a_worker(store: Path, pid: int) -> bool:
    return after_an_epoch(store, pid) and subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, check=False).returncode == 0


class Stop(NamedTuple):
    """When a run is stopped: once it says that a stage runs, and `ready`; the whole process group, or the first process alone."""

    stage: str
    ready: Callable[[Path, int], bool] = at_once
    alone: bool = False


KILLS = (  # test_fifty_kills.py, which is slow, meets every stage
    Stop("train_teacher", after_an_epoch),
    Stop("train_baseline", with_a_worker, alone=True),
    Stop("distill", after_an_epoch),
    Stop("export", after_a_second),
    Stop("optimize:cpu-int8"),
)
CTRL_C = Stop("train_baseline", with_a_worker)


class Story(NamedTuple):
    """Two folders `runs`, what the disturbed runs said, and the one that Ctrl-C ended: exit code and stderr."""

    undisturbed: Path
    disturbed: Path
    said: list[str]
    interrupted: tuple[int, str]


@contextmanager
def started(runs: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [str(PROGRAM), "run", str(SMALL), "--runs", str(runs), *(word for option in OPTIONS for word in ("--set", option))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "true"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def stopped(runs: Path, stop: Stop, number: signal.Signals) -> tuple[int, str, str]:
    """Start a run and stop it; its exit code and all that it said.

    The pipes end when the last process that holds them is gone, loader processes included.
    """
    with started(runs) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith(f"{stop.stage:<28} running"):
                break
        else:
            pytest.fail(f"{stop.stage} never ran:\n{said}\n{process.communicate()[1][-3000:]}")
        until(lambda: process.poll() is not None or stop.ready(runs / ".store", process.pid), f"{stop.stage} to get there", 600)
        assert process.poll() is None, f"{stop.stage} ended before it could be stopped"
        (os.kill if stop.alone else os.killpg)(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, said + out, err


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("kill")
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    said = []
    interrupted = (0, "")
    with started(undisturbed) as whole:
        for kill in KILLS:
            code, out, _ = stopped(disturbed, kill, signal.SIGKILL)
            assert code == -signal.SIGKILL
            said.append(out)
            if kill.stage == CTRL_C.stage:
                code, out, err = stopped(disturbed, CTRL_C, signal.SIGINT)
                said.append(out)
                interrupted = (code, err)
        with started(disturbed) as last:
            out, err = last.communicate(timeout=TIMEOUT)
            assert last.returncode == 0, err[-3000:]
            said.append(out)
        _, err = whole.communicate(timeout=TIMEOUT)
        assert whole.returncode == 0, err[-3000:]
    return Story(undisturbed, disturbed, said, interrupted)


def files(runs: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(runs)): path.read_bytes() for path in runs.glob(f".store/{pattern}")}


def summary(runs: Path) -> Any:
    return json.loads((runs / "small" / "summary.json").read_text())


@pytest.mark.parametrize(("name", "count"), [("weights.safetensors", 3), ("detections.json", 8), ("attention.npz", 1)])
def test_the_results_are_the_same_bit_for_bit(story: Story, name: str, count: int) -> None:
    expected = files(story.undisturbed, f"*/{name}")
    assert len(expected) == count
    assert files(story.disturbed, f"*/{name}") == expected
    assert all(content not in (b"", b"[]") for content in expected.values())


def test_the_figures_are_the_same(story: Story) -> None:
    expected, got = summary(story.undisturbed), summary(story.disturbed)
    for key in ("teacher", "baseline", "student", "gain_map", "gap_closed", "gates", "exit_code"):
        assert got[key] == expected[key], key
    for name, target in expected["targets"].items():
        assert got["targets"][name]["map"] == target["map"]
        assert got["targets"][name]["sha256"] == target["sha256"]


def test_training_went_on_where_it_was_stopped(story: Story) -> None:
    for stage in ("train_teacher", "train_baseline", "distill"):
        assert any(f"{stage:<28} running: never ran, continues where it stopped" in text for text in story.said)


def test_nothing_finished_was_made_twice(story: Story) -> None:
    for stage in ("prepare", "train_teacher", "distill", "optimize:cpu-int8", "package:cpu-int8"):
        assert sum(f"{stage:<28} done" in text for text in story.said) == 1


def test_nothing_half_made_is_left(story: Story) -> None:
    left = [path.name for path in (story.disturbed / ".store").iterdir() if path.name.startswith(".") and not path.name.endswith(".lock")]
    assert left == []
    assert not [path.name for path in (story.disturbed / "small").iterdir() if path.name.startswith(".")]


def test_ctrl_c_while_training_is_one_line(story: Story) -> None:
    assert story.interrupted == (130, "edgedistill: interrupted; run the same command again to continue\n")
