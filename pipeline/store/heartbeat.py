"""Signs of life of the processes of a torchrun, sent by a thread: who is silent is named, and who stays silent is not waited for.

Exchanges between processes wait in native code, for up to half an hour, and without a word.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from deploy import progress
from deploy.errors import ArtifactError, plain

BEAT_SECONDS, POLL_SECONDS = 2.0, 0.2
RUNS, LEFT = "-", ""
"""What a process has as the reason of its end before it ends, and after it ended in the ordinary way."""
AGAIN = "start the same command again, it continues after the last finished epoch"


def connected(seconds: float) -> Any:
    """A connection of its own to the store of torchrun's processes, whose calls take at most this long."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=seconds)))
    return store


@dataclass
class _Peer:
    """When another process was heard last, the beat, and what it was doing."""

    at: float = field(default_factory=time.monotonic)
    beat: str = ""
    doing: str = ""
    named: bool = False
    ended: str = RUNS


class Heartbeat:
    """Tells the others every few seconds that this process lives, and listens to them.

    Args:
        silent, lost: seconds after which a process is named, and after which this one ends.
        prefix: of all keys of this attempt.
    """

    def __init__(self, rank: int, num: int, hosts: list[str], silent: float, lost: float, prefix: str) -> None:
        self.seconds = min(BEAT_SECONDS, silent / 5)
        self._rank = rank
        self._hosts = hosts
        self._silent, self._lost, self._prefix = silent, lost, prefix
        self._peers = {other: _Peer() for other in range(num) if other != rank}
        self._count = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None
        self._reached = time.monotonic()
        self._away = False
        self._stuck: object = None

    def first_values(self) -> list[tuple[str, str]]:
        """What this process writes before it compares anything with the others."""
        return [(f"beat {self._rank}", "0|"), (f"ended {self._rank}", RUNS)]

    def start(self) -> None:
        """Start the thread, once everyone has come."""
        for peer in self._peers.values():
            peer.at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self, store: Any, reason: str) -> None:
        """End the thread, and tell the others why this process ends."""
        self._stopped.set()
        try:
            store.set(f"ended {self._rank}", reason)
        except RuntimeError:  # whoever has the store ended before; nobody is left to be told
            return

    def missed(self) -> str | None:
        """The first process that has not been heard from for two beats and more, and has not said that it ends."""
        now = time.monotonic()
        late = (rank for rank, peer in self._peers.items() if peer.ended == RUNS and now - peer.at > 2.5 * self.seconds)
        return next((f"{self._hosts[rank]} was killed or cannot be reached" for rank in late), None) if self._thread is not None else None

    def _run(self) -> None:
        while not self._stopped.wait(self.seconds):
            try:
                self._exchange()
            except RuntimeError:  # what torch raises if the store cannot be reached
                self._store = None
                self._unreached(time.monotonic() - self._reached)
                continue
            if self._stopped.is_set():
                return
            if self._away:
                say("the store of all processes can be reached again")
            self._reached, self._away = time.monotonic(), False
            self._judge()
            self._look_at_steps()

    def _exchange(self) -> None:
        if self._store is None:
            from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in its list of names

            self._store = PrefixStore(self._prefix, connected(self._silent))
        self._count += 1
        self._store.set(f"beat {self._rank}", f"{self._count}|{_doing()}")
        names = [f"{what} {rank}" for what in ("beat", "ended") for rank in self._peers]
        values = [value.decode() for value in self._store.multi_get(names)]
        for (rank, peer), beat, ended in zip(self._peers.items(), values, values[len(self._peers) :], strict=False):
            peer.ended = ended
            count, _, peer.doing = beat.partition("|")
            if count != peer.beat:
                self._heard(rank, peer)
                peer.beat = count

    def _heard(self, rank: int, peer: _Peer) -> None:
        if peer.named and self._speaks:
            say(f"{self._hosts[rank]} is heard again after {time.monotonic() - peer.at:.0f} s")
        peer.at, peer.named = time.monotonic(), False

    @property
    def _speaks(self) -> bool:
        """Whether this process is the first of those that are heard."""
        now = time.monotonic()
        return all(rank > self._rank or now - peer.at >= self._silent or peer.ended != RUNS for rank, peer in self._peers.items())

    def _judge(self) -> None:
        """Name who is silent, and end if they stay silent: without them, no exchange can succeed."""
        for rank, peer in self._peers.items():
            silence = time.monotonic() - peer.at
            if peer.ended == LEFT or silence < self._silent:
                continue
            if peer.ended != RUNS:
                self._end(f"{self._hosts[rank]} ended: {peer.ended}")
            if silence >= self._lost:
                self._end(f"{self._hosts[rank]} has not been heard from for {silence:.0f} s")
            if not peer.named and self._speaks:
                say(f"{self._hosts[rank]} has not been heard from for {silence:.0f} s; the others wait, and end after {self._lost:g} s")
            peer.named = True

    def _unreached(self, silence: float) -> None:
        where = f"{os.environ.get('MASTER_ADDR')}, where all processes meet,"
        if self._stopped.is_set():
            return
        if silence >= self._lost:
            self._end(f"{where} has not been reached for {silence:.0f} s")
        if silence >= self._silent and not self._away:
            self._away = True
            say(f"process {self._rank}: {where} has not been reached for {silence:.0f} s; it waits, and ends after {self._lost:g} s")

    def _look_at_steps(self) -> None:
        """A line if no step ends although everyone is alive: what each of them does."""
        steps = progress.current()
        if self._rank or steps is None or (waited := time.monotonic() - steps.moved) < self._silent:
            return
        stuck = (steps, steps.done)
        if stuck != self._stuck:
            self._stuck = stuck
            others = [f"{self._hosts[rank]} {peer.doing}" for rank, peer in self._peers.items() if peer.ended == RUNS and peer.doing]
            say(f"{steps.label}: no step for {waited:.0f} s; {', '.join([f'{self._hosts[0]} {steps.phase}', *others])}")

    def _end(self, why: str) -> None:
        """End the process, whose main thread waits in native code; a training can be killed at any moment."""
        say(f"edgedistill: the training cannot go on: {why}; {AGAIN}", mark="")
        os._exit(ArtifactError.exit_code)


def say(text: str, mark: str = "! ") -> None:
    """A line on stderr, of any process."""
    sys.stderr.write(f"{mark}{plain(text)}\n")
    sys.stderr.flush()


def _doing() -> str:
    steps = progress.current()
    return "" if steps is None else steps.phase
