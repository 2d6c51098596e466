"""A server from start to end: listen, load and warm up, turn ready, swap on SIGHUP, drain on SIGTERM and Ctrl-C."""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import threading
import traceback
from collections.abc import Iterator
from functools import partial
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from deploy.bundles.bundle import Bundle
from deploy.bundles.trust import ANYONE, Trust
from deploy.errors import ConfigError, Interrupted
from deploy.serving import connection
from deploy.serving.api import app
from deploy.serving.logs import Log, libraries
from deploy.serving.options import LOOPBACK, ServeConfig
from deploy.serving.service import Service

_MAX_CONNECTIONS, _MAX_GRPC_CONNECTIONS = 1024, 256
_M_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 4 << 20
_OTHER_FILES = 128
"""Open files of the engine, the log, the port and the processes that decode."""
ACCEPTED_AT_ONCE = 64
"""New connections per turn of the event loop. uvloop takes one per turn and listener, and under overload a turn takes long, so that new
clients, health checks among them, would wait for seconds; the port is therefore opened this many times."""


def serve(folder: Path, config: ServeConfig | None = None, *, allow_ungated: bool = False, trust: Trust = ANYONE) -> None:
    """Serve a bundle until SIGTERM or Ctrl-C, then finish the accepted requests.

    Raises:
        Untrusted: the bundle is not what `trust` requires.
        ArtifactError: the bundle is damaged, fails its test, or its gates have not passed on such a machine and `allow_ungated` is false.
        RuntimeUnavailable: its engine cannot run on this machine.
        ConfigError: the server cannot listen on an address, or the token cannot be read.
        Interrupted: it was ended by Ctrl-C.
    """
    config = config or ServeConfig()
    check_bundle(folder, allow_ungated=allow_ungated, trust=trust)
    service = Service(folder, config, allow_ungated=allow_ungated, trust=trust)
    give_memory_back()
    with libraries(service.log), listen(config.host, config.port) as listener:
        server = _Server(service, listener)
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            caught = runner.run(server.run())
    tell_end(caught)


def check_bundle(folder: Path, *, allow_ungated: bool, trust: Trust = ANYONE) -> None:
    """Refuse a bundle before anything is started.

    Raises:
        ArtifactError: it is damaged, or its gates have not passed on such a machine and `allow_ungated` is false.
        Untrusted: it is not what `trust` requires.
    """
    bundle = Bundle.load(folder, trust)
    if not allow_ungated:
        bundle.refuse_ungated_here()
    bundle.close()  # the service loads and checks it again, as with every swap


def tell_end(caught: int | None) -> None:
    """Say how a server ended.

    Raises:
        Interrupted: by Ctrl-C.
    """
    if caught == signal.SIGINT:
        raise Interrupted("interrupted; accepted requests were answered")


def give_memory_back() -> None:
    """Have glibc return large blocks to the system as soon as they are freed, which it otherwise stops doing after the first ones."""
    with contextlib.suppress(OSError, AttributeError):  # a different C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def most_connections(*, grpc: bool) -> tuple[int, int]:
    """Maximum number of connections over HTTP and gRPC within the limit on open files, of which some are left for everything else."""
    try:
        import resource
    except ImportError:  # Windows
        return _MAX_CONNECTIONS, _MAX_GRPC_CONNECTIONS
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS, _MAX_GRPC_CONNECTIONS
    over_grpc = max(4, min(_MAX_GRPC_CONNECTIONS, (soft - _OTHER_FILES) // 4)) if grpc else 0
    return max(16, min(_MAX_CONNECTIONS, (soft - _OTHER_FILES - over_grpc) * 4 // 5)), over_grpc  # a fifth is for spare connections


def listen(host: str, port: int) -> socket.socket:
    """An open port; opened here, because uvicorn would end the program with its own exit code if the port is taken.

    On `::` it takes connections over IPv4, too, as gRPC's does.

    Raises:
        ConfigError: the port cannot be opened.
    """
    wide = ":" in host
    family, both = socket.AF_INET6 if wide else socket.AF_INET, wide and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=_MAX_CONNECTIONS, dualstack_ipv6=both)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise ConfigError(f"cannot listen on {host}, port {port} ({reason}); pass a different --host or --port") from error


@contextlib.contextmanager
def grpc_port(config: ServeConfig) -> Iterator[ServeConfig]:
    """Hold the port that workers share for gRPC, so that each of them can listen on it; the options with its number.

    Raises:
        ConfigError: the port cannot be opened.
    """
    if config.grpc_port is None:
        yield config
        return
    family, address = socket.AF_INET6 if ":" in config.host else socket.AF_INET, (config.host, config.grpc_port)
    with socket.socket(family) as alone, socket.socket(family) as held:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            alone.bind(address)  # refused beside the workers of another server, which would share its clients with these
            alone.close()
            held.bind(address)
        except OSError as error:
            where = f"{config.host}, port {config.grpc_port} ({error.strerror})"
            raise ConfigError(f"cannot listen for gRPC on {where}; pass a different --grpc-port") from error
        yield config.model_copy(update={"grpc_port": held.getsockname()[1]})


def say_address(log: Log, config: ServeConfig, listener: socket.socket) -> None:
    """Say where a server listens, and warn if anyone may use it."""
    host, port = listener.getsockname()[:2]
    log.info("listening", address=f"http://{address_of(host)}:{port}", stop="Ctrl-C or SIGTERM")
    if config.host not in LOOPBACK and config.token_file is None:
        log.warning("anyone who can reach this address can use it", advice="set serve.token_file")


def address_of(host: str) -> str:
    """A host in an address."""
    return f"[{host}]" if ":" in host else host


def several(listener: socket.socket) -> list[socket.socket]:
    """An open port, so many times that an event loop takes ACCEPTED_AT_ONCE new connections at a time."""
    return [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]


class _Server(uvicorn.Server):
    """uvicorn with our own signal handling: uvicorn closes at the first signal, before load balancers know.

    Without a listener, it answers the connections that it is given.
    """

    shares_port = False

    def __init__(self, service: Service, listener: socket.socket | None) -> None:
        self.service = service
        self.listener = listener
        self.caught: int | None = None
        self._grpc: Any = None
        self._swap_asked = False
        self._swapping: asyncio.Future[None] | None = None
        most, self._most_over_grpc = most_connections(grpc=service.config.grpc_port is not None)
        entrance = self.entrance(most)
        grace = ceil(service.config.timeout_ms / 1000) + 2
        plain: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
        plain |= {"lifespan": "off", "ws": "none", "http": partial(connection.Connection, entrance)}
        limits: dict[str, Any] = {
            "timeout_keep_alive": ceil(2 * connection.IDLE_SECONDS),  # Connection closes it before, and frees what is not read
            "timeout_graceful_shutdown": grace,
        }
        super().__init__(uvicorn.Config(app(service), **plain, **limits))

    async def run(self) -> int | None:  # type: ignore[override]
        """Serve, and return the signal that ended it."""
        config = self.service.config
        self._loop = asyncio.get_running_loop()
        hears = self.listener is not None and threading.current_thread() is threading.main_thread()  # other threads receive no signals
        if hears and hasattr(signal, "SIGHUP"):
            self._loop.add_signal_handler(signal.SIGHUP, self._swap)
        serving = asyncio.create_task(self.serve(sockets=[] if self.listener is None else several(self.listener)))
        self._watching = asyncio.create_task(connection.watch(self.server_state.connections))
        self._watching.add_done_callback(self._unwatched)
        try:
            await self.first_load()
            gc.collect()
            gc.freeze()  # everything allocated so far stays: collections need not scan it again
            if config.grpc_port is not None and not self.service.draining:
                os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines would repeat our errors
                from deploy.serving.oip import over_grpc  # load grpcio only if it is used

                where = config.host, config.grpc_port, self._most_over_grpc
                self._grpc, bound = await over_grpc.start(self.service, *where, shared=self.shares_port)
                self.announce(f"grpc://{address_of(config.host)}:{bound}")
            await serving
        finally:
            self.should_exit = True
            await asyncio.gather(serving, self._stop_grpc())
            self._watching.cancel()
            for left in list(self.server_state.connections):  # by a request that outlived its time, or at a second signal
                left.transport.abort()
            await asyncio.to_thread(self.service.close)
        return self.caught

    def entrance(self, most: int) -> connection.Entrance:
        """What counts the connections, of which there may be this many."""
        return connection.Entrance(most, self.service.config.max_connections_per_client, self.service.config.trusted_proxies)

    async def first_load(self) -> None:
        """Say where the server listens, and load the bundle.

        Raises:
            EdgedistillError: see Service.load.
        """
        assert self.listener is not None
        say_address(self.service.log, self.service.config, self.listener)
        await asyncio.to_thread(self.service.load)

    def announce(self, address: str) -> None:
        """Say where the server listens for gRPC."""
        self.service.log.info("listening", address=address)

    def _unwatched(self, watching: "asyncio.Task[None]") -> None:
        """End the server if nothing ends its connections any more."""
        if not watching.cancelled() and (error := watching.exception()) is not None:
            self.service.log.refused("connections are not watched", traceback=traceback.format_exception(error))
            self.should_exit = True

    async def _stop_grpc(self) -> None:
        """Accept no more calls, and let calls in progress finish within their time."""
        if self._grpc is not None:
            await self._grpc.stop(None if self.force_exit else self.service.config.timeout_ms / 1000)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal turns the server not ready and closes it after a delay; the second closes it immediately."""
        if self.service.draining:
            self.should_exit = self.force_exit = True
            return
        self.caught = sig
        self.service.draining = True
        self._loop.call_soon_threadsafe(self._drain, sig)

    def _drain(self, sig: int) -> None:
        seconds = self.service.config.drain_seconds if sig == signal.SIGTERM else 0.0
        self.service.log.info("draining", signal=signal.Signals(sig).name, seconds=seconds)

        def close() -> None:
            self.should_exit = True
            self._stopping = asyncio.ensure_future(self._stop_grpc())

        self._loop.call_later(seconds, close)

    def _swap(self) -> None:
        """Load the bundle again; signals that come while it is being loaded ask for one more time together."""
        self._swap_asked = True
        if self._swapping is None or self._swapping.done():
            self._swapping = asyncio.ensure_future(self._swap_while_asked())

    async def _swap_while_asked(self) -> None:
        while self._swap_asked and not self.service.draining:
            self._swap_asked = False
            with contextlib.suppress(Exception):  # already logged; the previous bundle is still served
                await asyncio.to_thread(self.service.load)
