"""Several processes on one store: every training is made once, killed ones are continued, and the table is a single process's."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import arena_samples
import pytest
from filelock import FileLock
from places import ROOT
from waiting import PATIENCE, join, until

from deploy.errors import ArtifactError
from pipeline import cli
from pipeline.arena import sharing
from pipeline.store import exclusion
from pipeline.store.store import TakenElsewhere

WAIT = 4 * PATIENCE
"""Seconds that three programs may take to start and to end."""

SCRIPT = ROOT / "tests" / "samples" / "arena_samples.py"


class Worker:
    """A process that shares the comparison of a folder, and what it printed."""

    def __init__(self, folder: Path) -> None:
        paths = os.pathsep.join([str(ROOT), str(SCRIPT.parent)])
        environment = {**os.environ, "PYTHONPATH": paths}
        command = [sys.executable, "-P", str(SCRIPT), "compare", "pipeline.yaml", "--share", "any"]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.lines.extend(lines)

    def trains(self) -> str:
        """The training that it is at; empty if it is at none."""
        assert self.process.poll() is None, self.lines
        last = next((line for line in reversed(self.lines) if re.match(r"(distill|train_\w+)\S*.* (running:|done in)", line)), "")
        return last.partition(" running:")[0].strip() if " running:" in last else ""

    def kill(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(WAIT) == -signal.SIGKILL
        join(self._reader)

    def end(self) -> str:
        """Wait for its end and return what it printed."""
        assert self.process.wait(WAIT) == 0, self.lines
        join(self._reader)
        return "".join(self.lines)


def write_config(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pipeline.yaml").write_text(arena_samples.CONFIG, encoding="utf-8")
    return folder


def draw(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(folder)
    with arena_samples.counting():
        assert cli.main(["compare"]) == 0
    return (folder / "runs" / "made-up" / "compare.json").read_text(encoding="utf-8")


@pytest.fixture
def start() -> Iterator[Callable[[Path], Worker]]:
    """Starts workers; none outlives the test."""
    started: list[Worker] = []

    def begin(folder: Path) -> Worker:
        started.append(Worker(folder))
        return started[-1]

    yield begin
    for worker in started:
        worker.process.kill()
        worker.process.wait(WAIT)


def test_three_processes_of_which_one_is_killed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], start: Callable[[Path], Worker]
) -> None:
    shared, alone = write_config(tmp_path / "shared"), write_config(tmp_path / "alone")
    store = shared / "runs" / ".store"
    store.mkdir(parents=True)
    (store / arena_samples.HOLD).touch()
    workers = [start(shared) for _ in range(3)]
    held = [until(worker.trains, "a training", WAIT) for worker in workers]
    assert len(set(held)) == 3, "each has taken a different one"
    for _ in range(2):
        workers[2].kill()
        workers[2] = start(shared)
        assert until(workers[2].trains, "the training of the one that was killed", WAIT) == held[2]
    workers[2].kill()
    (store / arena_samples.HOLD).unlink()
    said = [worker.end() for worker in workers[:2]]
    made = Counter((store / arena_samples.MADE).read_text().split())
    assert all("trainings are done; draw the table" in text for text in said)
    assert any(re.search(rf"{re.escape(held[2])} +running: .*continues where it stopped", text) for text in said), said
    assert not [name for name, times in made.items() if times > 1]
    drawn = draw(shared, monkeypatch)
    assert "running" not in capsys.readouterr().out
    assert drawn == draw(alone, monkeypatch)
    assert Counter((alone / "runs" / ".store" / arena_samples.MADE).read_text().split()) == made
    assert len(json.loads(drawn)["methods"]) == 2


class TestDoingAll:
    def test_what_others_do_is_looked_at_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sharing, "POLL_SECONDS", 0.0)
        done: list[str] = []

        def job(name: str, busy: int) -> Callable[[], object]:
            left = [busy]

            def do() -> object:
                if left[0]:
                    left[0] -= 1
                    raise TakenElsewhere(name)
                done.append(name)
                return name

            return do

        sharing.do_all([job("slow", 2), job("free", 0), job("busy", 1)])
        assert done == ["free", "busy", "slow"]

    def test_an_error_ends_it(self) -> None:
        def fail() -> None:
            raise ArtifactError("disk full")

        with pytest.raises(ArtifactError, match="disk full"):
            sharing.do_all([fail])


MOUNT = "36 25 0:32 / {point} rw,relatime shared:1 - {kind} server:/share {options}\n"


class TestExclusion:
    def test_a_local_disk_is_good(self, tmp_path: Path) -> None:
        exclusion.refuse_without_locks(tmp_path)

    def test_locks_that_keep_nobody_out_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exclusion, "_TRY", "")  # the second process gets the lock
        with pytest.raises(ArtifactError, match="a lock there does not keep other processes out"):
            exclusion.refuse_without_locks(tmp_path)

    def test_no_locks_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def acquire(*_: object, **__: object) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(FileLock, "_acquire", acquire)
        with pytest.raises(ArtifactError, match="files cannot be locked there"):
            exclusion.refuse_without_locks(tmp_path)

    @pytest.mark.parametrize(
        ("kind", "options", "why"),
        [
            ("nfs", "rw,vers=3,nolock,local_lock=all", "nfs is mounted with nolock, so locks hold on one machine only"),
            ("nfs4", "rw,local_lock=flock", "nfs4 is mounted with local_lock=flock"),
            ("lustre", "rw,localflock", "lustre is mounted with localflock"),
            ("fuse.s3fs", "rw", "a folder of fuse.s3fs has no locks that other machines see"),
            ("nfs4", "rw,local_lock=none", None),
            ("ext4", "rw", None),
        ],
    )
    def test_mounts_whose_locks_hold_on_one_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, why: str | None
    ) -> None:
        mounts = tmp_path / "mountinfo"
        mounts.write_text(MOUNT.format(point="/", kind="ext4", options="rw") + MOUNT.format(point=tmp_path, kind=kind, options=options))
        monkeypatch.setattr(exclusion, "MOUNTS", mounts)
        (tmp_path / "store").mkdir()
        if why is None:
            exclusion.refuse_without_locks(tmp_path / "store")
            return
        with pytest.raises(ArtifactError, match=why):
            exclusion.refuse_without_locks(tmp_path / "store")
