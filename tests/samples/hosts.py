"""Several hosts on one machine: network namespaces joined by a bridge, each with a name of its own; needs root on Linux."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from places import ROOT
from waiting import PATIENCE, join, until

BIN = Path(sys.executable).parent
PORT = 29500
WHAT_FOR = "hosts are network namespaces"


def why_not() -> str | None:
    """Why this machine cannot have several hosts; None if it can."""
    if not sys.platform.startswith("linux"):
        return f"{WHAT_FOR}, which only Linux has"
    if missing := [name for name in ("ip", "tc", "unshare") if shutil.which(name) is None]:
        return f"{WHAT_FOR}; not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return f"{WHAT_FOR}, which only root may make"
    name = f"try{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{WHAT_FOR}, which are not allowed here: {done.stderr.strip()}"
    joined = subprocess.run(
        ["ip", "-n", name, "link", "add", "name", "one", "type", "veth", "peer", "name", "two"], capture_output=True, check=False
    )
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None if joined.returncode == 0 else f"{WHAT_FOR}, which cannot be joined here: no veth"


@dataclass
class Job:
    """A command on one host, and what it says."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def until(self, text: str, seconds: float = PATIENCE) -> None:
        """Wait until it has said this."""
        until(lambda: text in self.text or self.process.poll() is not None, f"'{text}' in what a host says", seconds)
        assert text in self.text, self.text[-3000:]

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(seconds)
        join(self.reading)
        return code

    def workers(self) -> list[int]:
        """The processes that torchrun has started on the host."""
        return descendants(self.process.pid)


class Hosts:
    """Names such as a, b, c, with addresses 10.77.0.1 and so on; a context manager that removes everything, whatever runs there."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.jobs: list[Job] = []
        self._tag = f"h{os.getpid() % 100000}"

    def address(self, name: str) -> str:
        return f"10.77.0.{self.names.index(name) + 1}"

    def space(self, name: str) -> str:
        """The namespace's name."""
        return f"{self._tag}{name}"

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self.space("switch"))
            _ip("-n", self.space("switch"), "link", "add", "bridge", "type", "bridge")
            _ip("-n", self.space("switch"), "link", "set", "bridge", "up")
            for name in self.names:
                space, port = self.space(name), f"to-{name}"
                _ip("netns", "add", space)
                _ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self.space("switch"))
                _ip("-n", space, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
                for link in ("lo", "eth0"):
                    _ip("-n", space, "link", "set", link, "up")
                _ip("-n", self.space("switch"), "link", "set", port, "master", "bridge", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._remove()

    def start(self, name: str, command: Sequence[object], *, before: str = "", environment: Mapping[str, str] | None = None) -> Job:
        """Run a command on a host; `before` is a shell command that runs there first, such as a mount that only this host sees."""
        words = " ".join(f"'{word}'" for word in command)
        script = f"hostname {name}; {before or 'true'}; exec {words}"
        more = {"OMP_NUM_THREADS": "1", "CI": "true", "GLOO_SOCKET_IFNAME": "eth0", "PYTHONPATH": str(ROOT), **(environment or {})}
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.space(name), "unshare", "--uts", "sh", "-c", script],
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.jobs.append(Job(process))
        return self.jobs[-1]

    def torchrun(self, command: Sequence[object], *, restarts: int = 0, **where: Mapping[str, str]) -> list[Job]:
        """The same command under torchrun, one process on each host, which meet at the first one.

        Args:
            where: `before` or `environment` of single hosts, as b={"before": ...}.
        """
        first = self.address(self.names[0])
        launcher = [BIN / "python", "-P", "-m", "torch.distributed.run", f"--nnodes={len(self.names)}", "--nproc_per_node=1"]
        launcher += ["--rdzv_id=1", "--rdzv_backend=c10d", f"--rdzv_endpoint={first}:{PORT}", f"--max_restarts={restarts}"]
        jobs = []
        for name in self.names:
            own = dict(where.get(name, {}))
            before = own.pop("before", "")
            is_host = ["--rdzv_conf", f"is_host={str(name == self.names[0]).lower()}", "--local_addr", self.address(name)]
            jobs.append(self.start(name, [*launcher, *is_host, "--no-python", *command], before=before, environment=own))
        return jobs

    def shape(self, *words: str) -> None:
        """Shape what every host sends, such as "tbf", "rate", "100mbit", "burst", "64kb", "latency", "200ms"; nothing: not any more."""
        for name in self.names:
            inside = ["ip", "netns", "exec", self.space(name), "tc", "qdisc"]
            subprocess.run([*inside, "delete", "dev", "eth0", "root"], capture_output=True, check=False)
            if words:
                subprocess.run([*inside, "add", "dev", "eth0", "root", *words], check=True)

    def cut(self, name: str) -> None:
        """Take a host off the network."""
        _ip("-n", self.space(name), "link", "set", "eth0", "down")

    def _remove(self) -> None:
        for job in self.jobs:
            for pid in [*descendants(job.process.pid), job.process.pid]:
                if job.process.poll() is None:
                    _kill(pid)
            job.process.wait(PATIENCE)
            join(job.reading)
            assert job.process.stdout is not None
            job.process.stdout.close()
        for name in (*self.names, "switch"):
            subprocess.run(["ip", "netns", "delete", self.space(name)], capture_output=True, check=False)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    found: list[int] = []
    try:
        below = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:  # it has just ended
        return found
    for child in below:
        found += [child, *descendants(child)]
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def wait(seconds: float) -> None:
    """Let time pass, for what is expected not to happen in it."""
    time.sleep(seconds)
