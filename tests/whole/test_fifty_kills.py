"""Fifty kills of a run at random moments, two for every stage of every target, and the results are bit for bit the same."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
SMALL = ROOT / "examples" / "small.yaml"
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
SEED, SHORT_SECONDS = 0, 0.3
PER_STAGE, PUBLISHING = 2, 4
"""Kills within each stage of each target, and after the last stage, while bundles are published."""
TIMEOUT = 900
PROGRAM = """
import atexit, json, os, signal, sys, threading

counting, instance, event, seconds, *sys.argv[1:] = sys.argv[1:]
running, counts, text = "", {}, sys.stdout.write

def end():
    os.killpg(0, signal.SIGKILL)

def count(name, given):
    if running:
        counts[running] = counts.get(running, 0) + 1
        if (running, counts[running]) == (instance, int(event)):
            end()

def write(line):
    global running
    written = text(line)
    sys.stdout.flush()
    name, _, what = line.partition(" ")
    if what.strip().startswith("running"):
        running = name
        if name == instance and float(seconds):
            timer = threading.Timer(float(seconds), end)
            timer.daemon = True
            timer.start()
    elif what.strip().startswith(("done in", "reused")):
        if name == instance:
            end()
        running = "publishing" if name == "package:cpu-int8" else ""
    return written

def tell():
    global running
    running = ""
    with open(counting, "w") as file:
        json.dump(counts, file)

sys.stdout.write = write
if instance == "publishing":
    atexit.register(end)
if counting:
    atexit.register(tell)
sys.addaudithook(count)
from pipeline.cli import main
sys.exit(main())
"""
"""A run that kills itself: at one of the stage's events (opened files, imports and everything else that Python tells hooks), after some
seconds, or, at the latest, when the stage has been made or is found to be. While counting, it counts the events of each stage."""


class Kill(NamedTuple):
    """When: at this event of the stage, from 1, or so many seconds after it began; the other one is 0."""

    instance: str
    event: int = 0
    seconds: float = 0.0


class KilledRun(NamedTuple):
    """What came of it: the exit code, and whether the stage was still being made."""

    kill: Kill
    code: int
    within: bool


class FiftyKills(NamedTuple):
    """Two folders `runs`, and the kills."""

    undisturbed: Path
    disturbed: Path
    killed: list[KilledRun]


def run(runs: Path, kill: Kill | None = None, *more: str, counting: str = "") -> tuple[int, str]:
    """The exit code of a run, negative if a signal ended it, and what it has said."""
    given = [counting, *(map(str, kill) if kill else ("", "0", "0"))]
    command = [sys.executable, "-P", "-c", PROGRAM, *given, "run", str(SMALL), "--runs", str(runs), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command += [word for option in OPTIONS for word in ("--set", option)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=TIMEOUT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


def plan(runs: Path, counts: Mapping[str, int]) -> list[Kill]:
    """Kills in the order of the stages: of each, one at a random event and one at a random moment, or, of a short one, both at events."""
    stages = json.loads((runs / "small" / "summary.json").read_text())["stages"]
    random = np.random.default_rng(SEED)
    kills: list[Kill] = []
    for one in stages:
        instance, seconds = one["instance"], one["seconds"]
        at_event = [Kill(instance, int(random.integers(1, counts[instance] + 1))) for _ in range(PER_STAGE)]
        kills += at_event if seconds < SHORT_SECONDS else [*at_event[1:], Kill(instance, seconds=float(random.uniform(0, seconds / 2)))]
    return [*kills, *(Kill("publishing", int(random.integers(1, counts["publishing"] + 1))) for _ in range(PUBLISHING))]


def killed(runs: Path, kill: Kill) -> KilledRun:
    """Start a run that is killed; if the stage had been made before, it is forced to be made again."""
    code, said = run(runs, kill)
    if f"{kill.instance:<28} reused" in said:
        code, said = run(runs, kill, "--force", kill.instance)
    return KilledRun(kill, code, within=f"{kill.instance:<28} done" not in said)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> FiftyKills:
    folder = tmp_path_factory.mktemp("fifty")
    undisturbed, disturbed, counting = folder / "undisturbed", folder / "disturbed", folder / "counts.json"
    assert run(undisturbed, counting=str(counting))[0] == 0
    found = [killed(disturbed, kill) for kill in plan(undisturbed, json.loads(counting.read_text()))]
    assert run(disturbed)[0] == 0
    return FiftyKills(undisturbed, disturbed, found)


def files(runs: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(runs)): path.read_bytes() for path in sorted(runs.glob(pattern))}


def summary(runs: Path) -> Any:
    return json.loads((runs / "small" / "summary.json").read_text())


def test_every_stage_of_every_target_was_killed(story: FiftyKills) -> None:
    assert len(story.killed) >= 50
    assert {one.code for one in story.killed} == {-signal.SIGKILL}
    stages = {one["instance"] for one in summary(story.undisturbed)["stages"]}
    within = [one.kill.instance for one in story.killed if one.within]
    assert set(within) == {*stages, "publishing"}
    assert len(within) >= len(story.killed) - 5, [one for one in story.killed if not one.within]


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
