"""Fifty kills of a run at random moments, two or more within every stage of every target, and the results are bit for bit the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
SMALL = ROOT / "examples" / "small.yaml"
COMMAND = (sys.executable, "-P", "-c", "import sys; from pipeline.cli import main; sys.exit(main())")
OPTIONS = (
    *("data.train_images=16", "data.val_images=8", "data.test_images=1", "data.shifted_images=1", "device=cpu"),
    *("teacher.detector.strides=[8]", "student.detector.strides=[8]", "teacher.train.epochs=3", "student.train.epochs=3"),
    *(
        "validation.latency.warmup=0",
        "validation.latency.min_passes=4",
        "validation.latency.min_seconds=0",
        "validation.latency.ratio_width=100",
    ),
)
NUM_KILLS, SEED = 50, 0
LONGEST = 4.0
"""Seconds after which a stage is killed at the latest, so that stages that do not resume end, too, before the next kill."""
PUBLISHING = "package:cpu-int8"
TIMEOUT = 900


class Kill(NamedTuple):
    """When: so many seconds after this stage was first reported."""

    instance: str
    seconds: float


class FiftyKills(NamedTuple):
    """Two folders `runs`; the kills, and how many of them met a process that was still running."""

    undisturbed: Path
    disturbed: Path
    kills: list[Kill]
    met: int


@contextmanager
def started(runs: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [*COMMAND, "run", str(SMALL), "--runs", str(runs), *(word for option in OPTIONS for word in ("--set", option))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def killed(runs: Path, kill: Kill) -> bool:
    """Start a run and kill it; whether it was still running."""
    with started(runs) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"{kill.instance:<28} "):
                break
        time.sleep(kill.seconds)
        met = process.poll() is None
        if met:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=TIMEOUT)
    return met


def whole(runs: Path) -> None:
    with started(runs) as process:
        process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0


def plan(runs: Path) -> list[Kill]:
    """Kills in the order of the stages: as many for each, at random moments of the time that it took undisturbed."""
    stages = json.loads((runs / "small" / "summary.json").read_text())["stages"]
    random = np.random.default_rng(SEED)
    each = NUM_KILLS // len(stages)
    moments = [(one["instance"], min(LONGEST, one["seconds"])) for one in stages for _ in range(each)]
    kills = [Kill(instance, float(random.uniform(0, seconds))) for instance, seconds in moments]
    more = NUM_KILLS - len(kills)
    return [*kills, *(Kill(PUBLISHING, float(random.uniform(0, 1))) for _ in range(more))]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> FiftyKills:
    folder = tmp_path_factory.mktemp("fifty")
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    whole(undisturbed)
    kills = plan(undisturbed)
    met = sum(killed(disturbed, kill) for kill in kills)
    whole(disturbed)
    return FiftyKills(undisturbed, disturbed, kills, met)


def files(runs: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(runs)): path.read_bytes() for path in sorted(runs.glob(pattern))}


def summary(runs: Path) -> Any:
    return json.loads((runs / "small" / "summary.json").read_text())


def test_every_stage_of_every_target_was_killed(story: FiftyKills) -> None:
    assert len(story.kills) == NUM_KILLS
    assert story.met >= NUM_KILLS - 5
    assert {kill.instance for kill in story.kills} == {one["instance"] for one in summary(story.undisturbed)["stages"]}


@pytest.mark.parametrize(
    "pattern",
    [
        *(".store/*/weights.safetensors", ".store/*/attention.npz", ".store/*/*.onnx", ".store/*/detections.json"),
        *(".store/prepare-*/images/**/*.jpg", ".store/prepare-*/*.json", "small/bundle/*/*.onnx", "small/bundle/*/labels.txt"),
    ],
)
def test_the_results_are_the_same_bit_for_bit(story: FiftyKills, pattern: str) -> None:
    expected = {name: content for name, content in files(story.undisturbed, pattern).items() if not name.endswith("stage.json")}
    got = {name: content for name, content in files(story.disturbed, pattern).items() if not name.endswith("stage.json")}
    assert expected
    assert got == expected


def test_nothing_is_lost_or_left_half_made(story: FiftyKills) -> None:
    expected, got = summary(story.undisturbed), summary(story.disturbed)
    for key in ("teacher", "baseline", "student", "gap_closed", "exit_code"):
        assert got[key] == expected[key], key
    assert [(one["name"], one["verdict"]) for one in got["gates"]] == [(one["name"], one["verdict"]) for one in expected["gates"]]
    left = [path.name for path in (story.disturbed / ".store").iterdir() if path.name.startswith(".") and not path.name.endswith(".lock")]
    assert left == []
    assert sorted(path.name for path in (story.disturbed / ".store").glob("[!.]*")) == sorted(
        path.name for path in (story.undisturbed / ".store").glob("[!.]*")
    )
