"""One of several servers behind a port: it answers the connections that the supervisor hands it, and does what the supervisor says."""

import asyncio
import contextlib
import random
import signal
import socket
import traceback
from collections.abc import Coroutine, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from deploy import errors, machine
from deploy.bundles.snapshot import remove_all
from deploy.bundles.trust import ANYONE, Trust
from deploy.errors import ArtifactError, EdgedistillError
from deploy.serving import process
from deploy.serving.connection import Connection, Entrance
from deploy.serving.logs import Log, libraries
from deploy.serving.metrics import Totals
from deploy.serving.model import Model
from deploy.serving.options import ServeConfig
from deploy.serving.refusals import Busy
from deploy.serving.service import Service
from deploy.serving.workers.channel import AGAIN_SECONDS, Channel, Message

_ANSWER_SECONDS = 5.0
"""Time that the supervisor has to add up figures; a worker that gets none in time answers with its own."""


def run(number: int, folder: Path, config: ServeConfig, channel: Channel, *, allow_ungated: bool, trust: Trust = ANYONE) -> int:
    """Serve until the supervisor says stop; the exit code. To be called in a process that was just forked."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a terminal and some service managers send them to every process
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    random.seed()  # otherwise all workers would choose the same request ids
    log = Log(worker=number)
    try:
        service = WorkerService(folder, share_of(config), channel, allow_ungated=allow_ungated, log=log, trust=trust)
        process.give_memory_back()
        server = WorkerServer(service, channel)
        with libraries(log), asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.run())
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends this process only, and is logged
        log.refused("worker failed", reason=str(error), traceback=traceback.format_exception(error))
        log.flush()
        return error.exit_code if isinstance(error, EdgedistillError) else 1
    finally:
        remove_all()  # this process ends in a way in which Python deletes nothing
    return 0


def share_of(config: ServeConfig) -> ServeConfig:
    """A worker's options: sessions use its part of the cores, unless their threads are set."""
    return config.model_copy(update={"threads": config.threads or max(1, machine.num_cores() // config.workers)})


class WorkerService(Service):
    """A service that is one of several: what concerns all of them, the supervisor is asked for."""

    def __init__(
        self, folder: Path, config: ServeConfig, channel: Channel, *, allow_ungated: bool, log: Log, trust: Trust = ANYONE
    ) -> None:
        super().__init__(folder, config, allow_ungated=allow_ungated, log=log, trust=trust)
        self._channel = channel
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self.loop: asyncio.AbstractEventLoop | None = None

    def load(self) -> None:
        """Have all workers load the bundle again.

        Raises:
            EdgedistillError: one of them refused it, and all serve the previous one.
        """
        assert self.loop is not None
        answer = asyncio.run_coroutine_threadsafe(self._ask("load"), self.loop).result()
        if answer["failed"] is not None:
            raise error_of(answer)

    async def metrics_text(self) -> str:
        """The metrics of all workers."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                return str((await self._ask("sum"))["text"])
        return await super().metrics_text()

    async def totals(self) -> Totals:
        """The sums over all passes of all workers."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                return Totals.of((await self._ask("sum"))["totals"])
        return await super().totals()

    def answered(self, message: Message) -> None:
        """An answer of the supervisor."""
        if (future := self._asked.pop(message["id"], None)) is not None and not future.done():
            future.set_result(message)

    def _ask(self, what: str) -> Coroutine[Any, Any, Message]:
        async def ask() -> Message:
            number = next(self._numbers)
            self._asked[number] = asyncio.get_running_loop().create_future()
            tell(self._channel, {"ask": what, "id": number})
            return await self._asked[number]

        return ask()


class WorkerEntrance(Entrance):
    """Tells the supervisor, which gives new connections to the worker that has fewest, when one has ended."""

    channel: Channel

    def leave(self, connection: Connection, *, spare: bool) -> None:
        """Forget a connection."""
        super().leave(connection, spare=spare)
        tell(self.channel, {"closed": 1})


class WorkerServer(process._Server):  # noqa: SLF001 - the same server, without its own port and signals
    """See `run`."""

    shares_port = True

    def __init__(self, service: WorkerService, channel: Channel) -> None:
        self._channel = channel
        self._up, self._first = asyncio.Event(), asyncio.Event()
        self._opened: tuple[Model, bool] | None = None
        self._coming: set[asyncio.Task[None]] = set()
        self._doing: set[asyncio.Task[None]] = set()
        super().__init__(service, None)
        self.worker = service

    def entrance(self, most: int) -> Entrance:
        """See _Server.entrance."""
        config = self.service.config
        made = WorkerEntrance(most, config.max_connections_per_client, config.trusted_proxies)
        made.channel = self._channel
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the supervisor's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """From now on connections can be answered."""
        await super().startup(sockets=sockets)
        self._up.set()

    async def first_load(self) -> None:
        """Hear the supervisor from now on, and wait until it says that all workers are ready."""
        await self._up.wait()
        self.worker.loop = self._loop
        self._loop.add_reader(self._channel.fileno(), self._hear)
        await self._first.wait()

    def announce(self, address: str) -> None:
        """The supervisor has said it."""

    def _hear(self) -> None:
        try:
            while (heard := self._channel.receive()) is not None:
                message, given = heard
                if given is not None:
                    self._start(self._coming, self._answer(given))
                else:
                    self._obey(message)
        except EOFError:
            self._loop.remove_reader(self._channel.fileno())
            self.service.log.refused("the supervisor has ended")
            self.service.draining = True
            self._start(self._doing, self._close())

    def _obey(self, message: Message) -> None:
        match message["do"]:
            case "open":
                self._start(self._doing, self._open(message))
            case "take":
                self._take(counts=message["counts"])
            case "drop":
                self._start(self._doing, self._drop())
            case "drain":
                self.service.draining = True
            case "close":
                self._start(self._doing, self._close())
            case "abort":
                self.should_exit = self.force_exit = True
                self._first.set()
            case "count":
                self._start(self._doing, self._count(message["id"]))
            case "answered":
                self.worker.answered(message)

    def _start(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _answer(self, given: socket.socket) -> None:
        """Answer the requests on a connection."""
        given.setblocking(False)
        made = self.config.http_protocol_class
        about: dict[str, Any] = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        try:
            await self._loop.connect_accepted_socket(lambda: made(**about), given)
        except OSError:  # the client went away in the meantime
            given.close()
            tell(self._channel, {"closed": 1})

    async def _open(self, message: Message) -> None:
        """Load a bundle beside the one that is served."""
        size = message["size"]
        config = self.service.config if size is None else self.service.config.model_copy(update={"max_batch_size": size})
        answer: Message = {"id": message["id"], "failed": None}
        try:
            made, gated = await asyncio.to_thread(self._made, Path(message["folder"]), message["version"], config)
            self._opened = made, gated
            answer |= {"model": made.name, "size": made.batcher.max_batch_size, "sha256": made.bundle.digest, "gated": gated}
        except Exception as error:  # noqa: BLE001 - logged where it was raised; the supervisor decides what follows
            answer |= failure(error)
        tell(self._channel, {"answer": answer})

    def _made(self, folder: Path, version: int, config: ServeConfig) -> tuple[Model, bool]:
        made = self.service.opened(folder, version, config)
        return made, made.bundle.why_ungated_here() is None

    def _take(self, *, counts: bool) -> None:
        """Serve what was opened, from the next request on."""
        assert self._opened is not None
        (new, gated), self._opened = self._opened, None
        with contextlib.suppress(Busy):  # it is closing
            old = self.service.take(new, gated=gated, counts=counts)
            if old is not None:
                self._start(self._doing, asyncio.to_thread(old.close))
        self._first.set()

    async def _drop(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await asyncio.to_thread(opened[0].close)

    async def _close(self) -> None:
        """Answer what was accepted, and end."""
        await asyncio.gather(*self._coming, return_exceptions=True)
        self._first.set()
        self.should_exit = True
        self._stopping = asyncio.ensure_future(self._stop_grpc())

    async def _count(self, number: int) -> None:
        text, total = await Service.metrics_text(self.service), self.service.metrics.total
        tell(self._channel, {"answer": {"id": number, "text": text, "totals": total.values}})


def tell(channel: Channel, message: Message) -> None:
    """Send a message, sooner or later."""
    if not channel.send(message):
        asyncio.get_running_loop().call_later(AGAIN_SECONDS, _tell_again, channel)


def _tell_again(channel: Channel) -> None:
    if not channel.flush():
        asyncio.get_running_loop().call_later(AGAIN_SECONDS, _tell_again, channel)


def failure(error: Exception) -> Message:
    """An error as a message."""
    return {"failed": str(error), "kind": type(error).__name__}


def error_of(message: Message) -> EdgedistillError:
    """The error of `failure`."""
    kind = getattr(errors, message["kind"], ArtifactError)
    made = kind if isinstance(kind, type) and issubclass(kind, EdgedistillError) else ArtifactError
    return made(message["failed"])
