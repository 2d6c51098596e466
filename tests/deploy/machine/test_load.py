"""What else the machine did, read from files as Linux has them."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from clock import Clock

from deploy.machine import load
from deploy.machine.load import Load, Watch

QUIET = Load(other_cores=0.0, load_average=1.0, governor=None, frequency_mhz=None, throttled=0)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the system's files hold, by name."""
    made = {"stat": "cpu  1000 0 500 9000 100 0 0 0 0 0\ncpu0 1 0 1 9 1 0 0 0 0 0\n", "cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2500.5\n"}
    for number in range(2):
        counter = tmp_path / f"cpu{number}/thermal_throttle/core_throttle_count"
        counter.parent.mkdir(parents=True)
        counter.touch()
    made |= {"core_throttle_count": "4\n", "scaling_governor": "powersave\n"}
    monkeypatch.setattr(load, "_CPU", tmp_path)
    monkeypatch.setattr(load, "_text", lambda path: made[path.name].strip() if path.name in made else None)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name])
    return made


def test_the_time_of_others_is_all_busy_time_less_our_own(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    wall, own = Clock(50.0), Clock(5.0)
    monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter=wall._now, process_time=own._now))
    watch = Watch()
    wall.seconds, own.seconds = 60.0, 8.0
    files["stat"] = "cpu  1600 0 700 9900 900 0 0 0 0 0\n"  # 8 s more of work; waiting is none
    files["core_throttle_count"] = "5\n"
    seen = watch.seen()
    assert seen.other_cores == pytest.approx(0.5)
    assert (seen.throttled, seen.governor, seen.frequency_mhz) == (2, "powersave", 2500.5)


@pytest.mark.parametrize("stat", [None, "", "cpu 1 2 3\n"])
def test_what_the_system_does_not_say_is_null(files: dict[str, str], monkeypatch: pytest.MonkeyPatch, stat: str | None) -> None:
    files.clear()
    files |= {} if stat is None else {"stat": stat}
    seen = Watch().seen()
    assert (seen.other_cores, seen.throttled, seen.governor, seen.frequency_mhz) == (None, None, None, None)


def test_this_machine_is_read_as_far_as_it_says() -> None:
    seen = Watch().seen()
    assert (seen.other_cores is not None) == Path("/proc/stat").exists()


def test_a_busy_or_throttled_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert QUIET.warning() is None
    assert QUIET.model_copy(update={"other_cores": load.BUSY_CORES}).warning() is None
    busy = QUIET.model_copy(update={"other_cores": 1.25, "throttled": 3})
    assert busy.warning() == "other processes kept 1.2 of 4 cores busy and the processor was throttled 3 times"
