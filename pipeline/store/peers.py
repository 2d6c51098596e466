"""The processes of a torchrun: each says what it is about to do, and none waits in silence for one that is slow, has ended or is lost.

They meet at the key-value store that torchrun has for them, not at files: those of an earlier attempt would still be there.
"""

import atexit
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from deploy.errors import ArtifactError, ConfigError, EdgedistillError, in_one_line
from pipeline.store.checkout import different, facts, sources
from pipeline.store.heartbeat import AGAIN, LEFT, POLL_SECONDS, RUNS, Heartbeat, connected, say

SILENT_SECONDS, LOST_SECONDS = 30.0, 300.0
"""Seconds without a sign of life after which a process is named, and after which nobody waits for it any more."""
SEEN_SECONDS = 10.0
"""Seconds that a shared file system may take to show a new file to everyone."""
_CONNECTION = ("gloo", "nccl", "connection", "socket", "timed out", "tcpstore", "broken pipe")
"""Words in the errors of torch when another process has gone."""


class Peers:
    """This process among those that train together; of a single one, every method returns at once."""

    _of_this_process: "Peers | None" = None

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.num = int(os.environ.get("WORLD_SIZE", "1"))
        self._hosts = [f"process {rank}" for rank in range(self.num)]
        self._asked: Counter[str] = Counter()
        self._store: Any = None
        self._heartbeat: Heartbeat | None = None

    @classmethod
    def here(cls) -> "Peers":
        """The same object for every store of this process."""
        if cls._of_this_process is None or cls._of_this_process.num != int(os.environ.get("WORLD_SIZE", "1")):
            cls._of_this_process = cls()
        return cls._of_this_process

    @property
    def are_several(self) -> bool:
        """Whether there are others, and a place to meet them."""
        return self.num > 1 and "MASTER_ADDR" in os.environ

    def meet(self, root: Path) -> None:
        """Find the others, once, before anything is read that one of them may lack; all must have the same code and results folder.

        Raises:
            ConfigError: one of them has other code or libraries, or does not see what the first one writes to `root`.
            ArtifactError: they do not come, or one of them ended with an error.
        """
        if self.are_several and self._store is None:
            self._meet(root)

    def agree(self, instance: str, parts: Mapping[str, Any], difference: Callable[[Any, Any], str | None]) -> None:
        """Wait until all are about to run the same stage with the same inputs.

        Args:
            difference: names the first difference of two `parts`.

        Raises:
            ConfigError: one of them would do something else.
            ArtifactError: one of them ended with an error.
        """
        if not self.are_several:
            return
        self._asked[instance] += 1
        key = f"{instance} {self._asked[instance]}"
        found = self._exchanged(key, json.dumps(parts, sort_keys=True), f"to start {instance}")
        first, *others = ((rank, json.loads(text)) for rank, text in sorted(found.items()))
        for rank, other in others:
            if other != first[1]:
                what = difference(first[1], other) or "other inputs"
                raise ConfigError(
                    f"{instance}: {self._hosts[rank]} would do something else than {self._hosts[first[0]]} ({what}); "
                    "all need the same configuration, data and weights, with the same paths, sizes and times"
                )

    def explain(self, error: BaseException) -> EdgedistillError | None:
        """What a failed exchange with the others means; None if the error is about something else."""
        if not self.are_several or self._heartbeat is None or isinstance(error, EdgedistillError):
            return None
        text = in_one_line(error)
        if not isinstance(error, RuntimeError) or not any(word in text.lower() for word in _CONNECTION):
            return None
        until = time.monotonic() + 4 * self._heartbeat.seconds
        try:
            while not (gone := self._gone(self._endings()) or self._heartbeat.missed()) and time.monotonic() < until:
                time.sleep(POLL_SECONDS)
        except RuntimeError:  # the store is gone as well
            gone = None
        return ArtifactError(f"the training cannot go on: {gone or f'another process was lost ({text})'}; {AGAIN}")

    def check(self) -> None:
        """To be called while waiting for the first process's results.

        Raises:
            ArtifactError: a process ended with an error.
        """
        if self._heartbeat is not None and (gone := self._gone(self._endings())):
            raise ArtifactError(f"{gone}; {AGAIN}")

    def leave(self, reason: str) -> None:
        """Tell the others that this process ends; the first reason counts, an empty one is an ordinary end."""
        if self._heartbeat is not None:
            self._heartbeat.stop(self._store, reason)
            self._heartbeat = None

    def _meet(self, root: Path) -> None:
        self._store = connected(SILENT_SECONDS)
        token = self._invited()
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in its list of names

        self._store = PrefixStore(f"edgedistill {token}", self._store)
        self._heartbeat = Heartbeat(self.rank, self.num, self._hosts, SILENT_SECONDS, LOST_SECONDS, f"edgedistill {token}")
        atexit.register(self.leave, LEFT)
        for key, value in ((f"files {self.rank}", json.dumps(sources())), *self._heartbeat.first_values()):
            self._store.set(key, value)
        mark = root / ".store" / f".meeting-{token}"
        if self.rank == 0:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        try:
            self._compare(mark)
        finally:
            if self.rank == 0:
                mark.unlink(missing_ok=True)

    def _compare(self, mark: Path) -> None:
        about = self._exchanged("about", json.dumps({"host": socket.gethostname(), **facts()}), "to start")
        known = {rank: json.loads(text) for rank, text in about.items()}
        for rank, own in known.items():
            self._hosts[rank] = f"process {rank} on {own['host']}"
        assert self._heartbeat is not None
        self._heartbeat.start()
        for rank, own in known.items():
            if (key := next((key for key in own if key != "host" and own[key] != known[0][key]), None)) is not None:
                here, there = (f"{known[number][key]}" for number in (0, rank))
                if key == "code":
                    name = different(*(json.loads(self._store.get(f"files {number}")) for number in (0, rank)))
                    here, there = f"of {name}", "another version"
                raise ConfigError(
                    f"{self._hosts[rank]} has {key} {there}, {self._hosts[0]} has {key} {here}; install the same version on all hosts"
                )
        until = time.monotonic() + SEEN_SECONDS
        while not mark.exists() and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        seen = self._exchanged("sees the results", str(mark.exists()), "to start")
        if (blind := next((rank for rank, text in seen.items() if text != "True"), None)) is not None:
            raise ConfigError(
                f"{self._hosts[blind]} does not see what {self._hosts[0]} writes to {mark.parent.parent}; "
                "--runs must be the same folder for all hosts, on a shared file system"
            )

    def _invited(self) -> str:
        """A name for this attempt that all its processes have; the store may still hold what those of an earlier one wrote.

        Each says hello with a new word. The first one invites those who have, and begins when all have answered this very invitation.
        """
        own, began, named = uuid4().hex, time.monotonic(), False
        self._store.set(f"hello {self.rank}", own)
        words: dict[int, str] = {}
        token = ""
        while True:
            if self.rank == 0:
                now = {rank: word for rank in range(self.num) if (word := self._value(f"hello {rank}")) is not None}
                if now != words and len(now) == self.num:
                    words, token = now, uuid4().hex[:12]
                    self._store.set("invitation", json.dumps({"token": token, "words": list(now.values())}))
            elif (text := self._value("invitation")) is not None and json.loads(text)["words"][self.rank] == own:
                token = json.loads(text)["token"]
            if token:
                self._store.set(f"answer {self.rank}", token)
                if self.rank == 0 and all(self._value(f"answer {rank}") == token for rank in range(self.num)):
                    self._store.set(f"begin {token}", "")
                if self._value(f"begin {token}") is not None:
                    return token
            named = self._patient(began, named=named)
            time.sleep(POLL_SECONDS)

    def _patient(self, began: float, *, named: bool) -> bool:
        """Whether it was said that this process waits for others which have not even started.

        Raises:
            ArtifactError: it has waited too long.
        """
        waited = time.monotonic() - began
        if waited >= LOST_SECONDS:
            raise ArtifactError(f"not all {self.num} processes came to start within {LOST_SECONDS:g} s; {AGAIN}")
        if waited >= SILENT_SECONDS and not named:
            say(f"process {self.rank} waits for others to start; it ends after {LOST_SECONDS:g} s")
            return True
        return named

    def _exchanged(self, key: str, own: str, doing: str) -> dict[int, str]:
        """Everyone's value, without those who have ended in the ordinary way.

        Raises:
            ArtifactError: one of them ended with an error.
        """
        self._store.set(f"{key} {self.rank}", own)
        began, named = time.monotonic(), 0
        while True:
            endings = self._endings()
            ranks = [rank for rank in range(self.num) if endings[rank] != LEFT]
            if self._store.check(names := [f"{key} {rank}" for rank in ranks]):
                return {rank: value.decode() for rank, value in zip(ranks, self._store.multi_get(names), strict=True)}
            if gone := self._gone(endings):
                raise ArtifactError(f"{gone}; {AGAIN}")
            waited = time.monotonic() - began
            if waited > (named + 1) * SILENT_SECONDS:
                named += 1
                missing = [rank for rank in ranks if not self._store.check([f"{key} {rank}"])]
                if self.rank == min(rank for rank in ranks if rank not in missing):
                    say(f"waiting for {', '.join(self._hosts[rank] for rank in missing)} {doing}, for {waited:.0f} s")
            time.sleep(POLL_SECONDS)

    def _endings(self) -> list[str]:
        """Why each process has ended, see `RUNS` and `LEFT`."""
        names = [f"ended {rank}" for rank in range(self.num)]
        return [text.decode() for text in self._store.multi_get(names)] if self._store.check(names) else [RUNS] * self.num

    def _gone(self, endings: Sequence[str]) -> str | None:
        """The first process that ended with an error, and its line."""
        reasons = ((rank, reason) for rank, reason in enumerate(endings) if rank != self.rank and reason not in (RUNS, LEFT))
        return next((f"{self._hosts[rank]} ended: {reason}" for rank, reason in reasons), None)

    def _value(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None
