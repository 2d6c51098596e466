"""Work on all cores: in order, in other processes, and with an end when one of them dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import machine
from deploy.errors import ArtifactError
from deploy.machine import parallel
from deploy.machine.parallel import AHEAD, FEW, ahead, mapped


def squared(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def deadly(number: int) -> int:
    if number == FEW // 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_many_items_are_dealt_out_to_processes_and_come_back_in_order() -> None:
    found = list(mapped(squared, range(FEW)))
    assert [value for value, _ in found] == [number * number for number in range(FEW)]
    assert os.getpid() not in {process for _, process in found}


def test_few_items_stay_in_this_process() -> None:
    assert {process for _, process in mapped(squared, range(FEW - 1))} == {os.getpid()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_process_that_is_killed_ends_the_work_with_one_line() -> None:
    with pytest.raises(ArtifactError, match="was killed"):
        list(mapped(deadly, range(FEW)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_results_are_made_ahead_but_only_a_few_wait(tmp_path: Path) -> None:
    def noted(number: int) -> tuple[int, int]:  # no function that could be pickled
        (tmp_path / str(number)).touch()
        return squared(number)

    found = ahead(noted, range(FEW))
    first = next(found)
    time.sleep(0.5)
    assert 1 < len(list(tmp_path.iterdir())) <= 2 * AHEAD + 2
    rest = list(found)
    assert [value for value, _ in (first, *rest)] == [number * number for number in range(FEW)]
    assert os.getpid() not in {process for _, process in rest}


def test_few_results_or_one_core_s_are_made_here_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {process for _, process in ahead(squared, range(FEW - 1))} == {os.getpid()}
    monkeypatch.setattr(machine, "num_cores", lambda: 1)
    assert {process for _, process in ahead(squared, range(FEW))} == {os.getpid()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_process_that_works_ahead_and_is_killed_ends_the_work_with_one_line() -> None:
    with pytest.raises(ArtifactError, match="was killed"):
        list(ahead(deadly, range(FEW)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import os, sys, time
from pathlib import Path
from deploy import machine
from deploy.machine import parallel
machine.num_cores = lambda: 2
def slow(number):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(0.05)
list(parallel.mapped(slow, range(100000)))
"""
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(parallel.__file__).parents[2])
    until = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    children = [int(path.name) for path in tmp_path.iterdir()]
    assert len(children) == 2
    while any(map(alive, children)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, children))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_the_work_begins_before_a_result_is_asked_for(tmp_path: Path) -> None:
    names = [str(number) for number in range(FEW)]
    results = mapped(lambda name: (tmp_path / name).touch(), names)  # not even its function can be pickled
    until = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < FEW and time.monotonic() < until:
        time.sleep(0.05)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert list(results) == [None] * FEW


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
