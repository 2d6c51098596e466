"""The process that owns the port: it hands out connections, and has all workers swap, drain and end together."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from deploy.bundles.bundle import sha256
from deploy.bundles.manifest import MANIFEST
from deploy.bundles.trust import ANYONE, Trust
from deploy.errors import ArtifactError, EdgedistillError
from deploy.serving import process
from deploy.serving.logs import Log
from deploy.serving.options import ServeConfig
from deploy.serving.workers import sums, worker
from deploy.serving.workers.channel import Channel, Message
from deploy.serving.workers.crew import Crew, CrewMember
from deploy.serving.workers.sums import Counted

_COUNT_SECONDS = 2.0
"""Time between two looks at what the workers have counted; what a killed one has counted since then is lost."""
_ANSWER_SECONDS = 1.0
"""Time that a worker has to say what it has counted."""
_LONGEST_PAUSE = 30.0
_MOST_FAILURES = 5
"""Workers that end one after another before they serve, after which a server that has no other gives up."""


def serve(folder: Path, config: ServeConfig, *, allow_ungated: bool = False, trust: Trust = ANYONE) -> None:
    """As process.serve, with several workers.

    Raises:
        EdgedistillError: see there; no worker stays alive.
    """
    process.check_bundle(folder, allow_ungated=allow_ungated, trust=trust)

    async def run() -> int | None:
        with process.listen(config.host, config.port) as listener, process.grpc_port(config) as reserved:
            return await Supervisor(folder, reserved, listener, allow_ungated=allow_ungated, trust=trust).run()

    with asyncio.Runner() as runner:
        caught = runner.run(run())
    process.tell_end(caught)


class ServedBundle(NamedTuple):
    """What all workers serve; `size` is the batch size that the first one measured, `sha256` that of the manifest."""

    folder: Path
    version: int
    size: int
    sha256: str

    def found(self) -> str:
        """The sha256 of the manifest that is in the folder now; of one that cannot be read, the one served, since a worker says why."""
        with contextlib.suppress(ArtifactError):
            return sha256(self.folder / MANIFEST)
        return self.sha256


class Supervisor:
    """See `run`."""

    def __init__(self, folder: Path, config: ServeConfig, listener: socket.socket, *, allow_ungated: bool, trust: Trust = ANYONE) -> None:
        self._folder, self._config, self._allow_ungated, self._trust = folder, config, allow_ungated, trust
        self._listener = listener
        self._log = Log()
        self._loop = asyncio.get_running_loop()
        self._crew = Crew(self._work, self._heed, self._left)
        self._over: asyncio.Future[int | None] = self._loop.create_future()
        self._served: ServedBundle | None = None
        self._loading, self._swap_asked = asyncio.Lock(), False
        self._ended = Counted()
        self._tasks: set[asyncio.Task[None]] = set()
        self._caught: int | None = None
        self._closed = False
        self._failures = 0

    async def run(self) -> int | None:
        """Start the workers, load the bundle in all of them, and serve until a signal, which is returned."""
        self._listener.setblocking(False)
        try:
            for stop in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(stop, self._stop, stop)
            self._loop.add_signal_handler(signal.SIGHUP, self._swap)
            for number in range(self._config.workers):  # before anything starts a thread, which the log does
                self._crew.fork(number)
            self._loop.add_reader(self._listener.fileno(), self._accept)
            process.say_address(self._log, self._config, self._listener)
            await self._first_load()
            return await self._over
        finally:
            self._closed = True
            self._crew.kill()
            for task in self._tasks:
                task.cancel()
            self._log.flush()

    def _work(self, number: int, channel: Channel) -> int:
        """In a worker's process."""
        self._listener.close()
        return worker.run(number, self._folder, self._config, channel, allow_ungated=self._allow_ungated, trust=self._trust)

    async def _first_load(self) -> None:
        loading = self._loop.create_task(self._load())
        await asyncio.wait((loading, self._over), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():  # a signal came first
            loading.cancel()
        elif (error := loading.exception()) is None:
            if self._config.grpc_port is not None:
                self._log.info("listening", address=f"grpc://{process.address_of(self._config.host)}:{self._config.grpc_port}")
            self._start(self._look_at_counts())
        elif self._caught is None:
            raise error

    async def _load(self) -> None:
        """Have all workers open the bundle beside the one that they serve, and then all of them take it, or none.

        The first one measures the batch size, alone.

        Raises:
            EdgedistillError: one of them refuses it.
        """
        async with self._loading:
            folder, version = self._folder.resolve(), 1 if self._served is None else self._served.version + 1
            chosen = list(self._crew.living)
            if not chosen:
                raise ArtifactError("no worker is alive; see the log")
            try:
                opened = await self._open(chosen[0], folder, version, None)
                others = [self._loop.create_task(self._open(one, folder, version, opened["size"])) for one in chosen[1:]]
                await asyncio.gather(*others, return_exceptions=True)  # of a failed load, too, each worker has something to drop
                if any(one.result()["sha256"] != opened["sha256"] for one in others):
                    raise ArtifactError(f"{folder}: has changed while the workers opened it; load it again")
            except EdgedistillError:
                self._crew.tell_all({"do": "drop"})
                raise
            for one in chosen:
                self._take(one, counts=one is chosen[0])
            first, self._served = self._served is None, ServedBundle(folder, version, opened["size"], opened["sha256"])
            missing = {*range(self._config.workers)} - {one.number for one in self._crew.living} if first else set()
            for number in missing:  # ended before there was anything to serve
                self._start(self._replace(number))
        about = {"model": opened["model"], "version": version, "max_batch_size": opened["size"]}
        about |= {"manifest_sha256": opened["sha256"], "gated": opened["gated"]}
        self._log.info("serving", **about, workers=len(chosen))

    async def _open(self, one: CrewMember, folder: Path, version: int, size: int | None) -> Message:
        answer = await self._crew.ask(one, {"do": "open", "folder": str(folder), "version": version, "size": size})
        if answer["failed"] is not None:
            raise worker.error_of(answer)
        return answer

    def _take(self, one: CrewMember, *, counts: bool) -> None:
        self._crew.tell(one, {"do": "take", "counts": counts})
        one.serves = True
        self._failures = 0

    def _accept(self) -> bool:
        """Hand out connections that wait; False if there are no more."""
        if not self._crew.living:  # until there is one again, they wait
            self._loop.remove_reader(self._listener.fileno())
        for _ in range(process.ACCEPTED_AT_ONCE if self._crew.living else 0):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return False
            except OSError:  # too many open files, of all programs; there will be room again
                return False
            with connection:
                self._crew.hand_over(connection)
        return bool(self._crew.living)

    def _heed(self, one: CrewMember, message: Message) -> None:
        self._start(self._answer(one, message))

    async def _answer(self, one: CrewMember, message: Message) -> None:
        answer: Message = {"do": "answered", "id": message["id"], "failed": None}
        if message["ask"] == "sum":
            await self._count()
            living = [other.figures for other in self._crew.living]
            answer |= {"text": sums.summed(living, [self._ended]), "totals": sums.summed_totals([*living, self._ended])}
        else:
            try:
                await self._load()
            except EdgedistillError as error:
                answer |= worker.failure(error)
        self._crew.tell(one, answer)

    async def _count(self) -> None:
        """Ask all workers what they have counted; one that does not answer in time keeps its last figures."""

        async def ask(one: CrewMember) -> None:
            with contextlib.suppress(TimeoutError, ArtifactError):
                async with asyncio.timeout(_ANSWER_SECONDS):
                    found = await self._crew.ask(one, {"do": "count"})
                    one.figures = Counted(found["text"], tuple(found["totals"]))

        await asyncio.gather(*(ask(one) for one in self._crew.living))

    async def _look_at_counts(self) -> None:
        while True:
            await asyncio.sleep(_COUNT_SECONDS)
            await self._count()

    def _left(self, one: CrewMember, code: int) -> None:
        """A worker has ended: keep what it has counted, and start another one unless all are to end."""
        self._ended = sums.merged([self._ended, one.figures])
        if self._caught is not None:
            if not self._crew.living:
                self._finish()
            return
        self._failures += not one.serves
        self._log.refused("worker ended", worker=one.number, code=code)
        if self._served is None or (self._failures >= _MOST_FAILURES and not any(other.serves for other in self._crew.living)):
            if not self._over.done() and self._served is not None:
                self._over.set_exception(ArtifactError("the workers end again and again; the log says why"))
            return
        pause = min(_LONGEST_PAUSE, 2.0**self._failures - 1)
        self._loop.call_later(pause, lambda: self._start(self._replace(one.number)))

    async def _replace(self, number: int) -> None:
        """Start a worker and have it serve what the others serve."""
        if self._caught is not None or self._closed:
            return
        one = self._crew.fork(number)
        self._loop.add_reader(self._listener.fileno(), self._accept)
        try:
            async with self._loading:
                assert self._served is not None
                folder, version, size, digest = self._served
                found = self._served.found()
                if found == digest:  # of another bundle the batch size may not do
                    found = (await self._open(one, folder, version, size))["sha256"]
                if found == digest:
                    self._take(one, counts=False)
            if found != digest:
                self._log.warning("bundle changed in its folder", folder=str(folder), manifest_sha256=found)
                self._crew.tell(one, {"do": "drop"})
                await self._load()
            self._log.info("worker replaced", worker=number)
        except EdgedistillError:  # it has logged the reason itself
            if one in self._crew.living:
                os.kill(one.pid, signal.SIGKILL)

    def _stop(self, number: signal.Signals) -> None:
        """The first signal turns all workers not ready, and closes after a delay; the second closes immediately."""
        if self._caught is not None:
            self._crew.tell_all({"do": "abort"})
            self._finish()
            return
        self._caught = number
        seconds = self._config.drain_seconds if number == signal.SIGTERM else 0.0
        self._log.info("draining", signal=number.name, seconds=seconds)
        self._crew.tell_all({"do": "drain"})
        self._loop.call_later(seconds, self._close)

    def _close(self) -> None:
        """Take no more connections than those that wait already, and have the workers answer and end."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._listener.fileno())
        while self._accept():
            pass
        self._listener.close()
        self._crew.tell_all({"do": "close"})
        if not self._crew.living:
            self._finish()

    def _finish(self) -> None:
        if not self._over.done():
            self._over.set_result(self._caught)

    def _swap(self) -> None:
        """Load the bundle again; signals that come while it is being loaded ask for one more time together."""
        if not self._swap_asked:
            self._swap_asked = True
            self._start(self._swap_when_free())

    async def _swap_when_free(self) -> None:
        async with self._loading:
            self._swap_asked = False
        if self._caught is None:
            with contextlib.suppress(EdgedistillError):  # logged; the previous bundle is still served
                await self._load()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
