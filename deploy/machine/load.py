"""A machine's other activity during a measurement: other processes, frequency, throttling."""

import os
import time
from pathlib import Path

from deploy.contract import Frozen

BUSY_CORES = 0.2
"""Other processes are reported if they keep more cores busy than this."""
_CPU = Path("/sys/devices/system/cpu")


class Load(Frozen):
    """The machine's load during a measurement; null for values that the system does not report.

    other_cores: average number of cores that other processes kept busy. load_average: one-minute average at the start.
    frequency_mhz: of the first core, at the end. throttled: thermal events of all cores during the measurement.
    """

    other_cores: float | None
    load_average: float | None
    governor: str | None
    frequency_mhz: float | None
    throttled: int | None

    def warning(self) -> str | None:
        """One clause if other processes were busy or the processor was throttled; None if the machine was quiet."""
        words = []
        if self.other_cores is not None and self.other_cores > BUSY_CORES:
            words.append(f"other processes kept {self.other_cores:.1f} of {os.cpu_count()} cores busy")
        if self.throttled:
            words.append(f"the processor was throttled {self.throttled} times")
        return " and ".join(words) or None


class Watch:
    """Starts watching when created; `seen` returns the load since then."""

    def __init__(self) -> None:
        self._average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._busy, self._own, self._start, self._events = _busy_seconds(), time.process_time(), time.perf_counter(), _throttled()

    def seen(self) -> Load:
        """The load since the start."""
        busy, events, seconds = _busy_seconds(), _throttled(), time.perf_counter() - self._start
        other = None
        if busy is not None and self._busy is not None:
            other = max(0.0, busy - self._busy - (time.process_time() - self._own)) / max(seconds, 1e-9)
        return Load(
            other_cores=other,
            load_average=self._average,
            governor=_text(_CPU / "cpu0/cpufreq/scaling_governor"),
            frequency_mhz=_frequency(),
            throttled=None if events is None or self._events is None else events - self._events,
        )


def _busy_seconds() -> float | None:
    """Busy time of all cores since the system started, excluding idle time and waiting for disks."""
    first = (_text(Path("/proc/stat")) or "").splitlines()[:1]
    fields = first[0].split() if first else []
    if len(fields) < 8 or not hasattr(os, "sysconf"):
        return None
    user, nice, system, _, _, irq, soft = (float(field) for field in fields[1:8])
    return (user + nice + system + irq + soft) / float(os.sysconf("SC_CLK_TCK"))


def _throttled() -> int | None:
    counts = [text for file in _CPU.glob("cpu[0-9]*/thermal_throttle/core_throttle_count") if (text := _text(file)) is not None]
    return sum(int(count) for count in counts) if counts else None


def _frequency() -> float | None:
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("cpu MHz"):
            return float(line.partition(":")[2])
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
