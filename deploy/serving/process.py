"""A server from start to end: listen, load and warm up, turn ready, swap on SIGHUP, drain on SIGTERM and Ctrl-C."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
from math import ceil
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.bundles.bundle import Bundle
from deploy.errors import ConfigError, Interrupted
from deploy.serving.api import app
from deploy.serving.options import ServeConfig
from deploy.serving.service import Service

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MAX_CONNECTIONS = 1024
_HEADER_SECONDS = 10
_IDLE_SECONDS = 75
"""A connection may rest so long between two requests."""
_FIRST_SECONDS = 1
"""A connection opened just before the end may still ask so long."""


def serve(folder: Path, config: ServeConfig | None = None, *, allow_ungated: bool = False) -> None:
    """Serve a bundle until SIGTERM or Ctrl-C; then accepted requests are finished.

    Raises:
        ArtifactError: the bundle is damaged, its test fails, or its gates have not passed on such a machine and that is not allowed.
        RuntimeUnavailable: its engine cannot run here.
        ConfigError: an address cannot be listened on, or the token cannot be read.
        Interrupted: it was ended by Ctrl-C.
    """
    config = config or ServeConfig()
    bundle = Bundle.load(folder)
    if not allow_ungated:
        bundle.refuse_ungated_here()
    service = Service(folder, config, allow_ungated=allow_ungated)
    for name in ("uvicorn", "asyncio", "grpc"):
        logging.getLogger(name).addHandler(service.log.handler())
    with listen(config.host, config.port) as listener:
        server = _Server(service, listener)
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            caught = runner.run(server.run())
    if caught == signal.SIGINT:
        raise Interrupted("interrupted; accepted requests were answered")


def most_connections() -> int:
    """As many as there are files for, some kept for the engine and the log."""
    try:
        import resource
    except ImportError:  # Windows
        return _MAX_CONNECTIONS
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(_MAX_CONNECTIONS, soft - 128))


class Connection(HttpToolsProtocol):
    """uvicorn's, which would wait forever for a request's headers and, at the end, not at all for those of one who has just called."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client may be silent for so long, no longer."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """From here the body's time counts."""
        self._stop_waiting()
        super().on_headers_complete()

    def shutdown(self) -> None:
        """The end: a client that has not asked yet is about to; the others close at rest, or with their answer."""
        if self.cycle is None:
            self._wait(_FIRST_SECONDS)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to wait for."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self, seconds: float = _HEADER_SECONDS) -> None:
        self._stop_waiting()
        self._late = self.loop.call_later(seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def listen(host: str, port: int) -> socket.socket:
    """An open port; uvicorn, asked to open one that is taken, would end the program with an exit code of its own.

    Raises:
        ConfigError: it cannot be listened on.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_MAX_CONNECTIONS)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise ConfigError(f"cannot listen on {host}, port {port} ({reason}); give another --host or --port") from error


class _Server(uvicorn.Server):
    """uvicorn, with our own signals: it would close at the first one, before load balancers know."""

    def __init__(self, service: Service, listener: socket.socket) -> None:
        self.service = service
        self.listener = listener
        self.caught: int | None = None
        self._grpc: Any = None
        grace = ceil(service.config.timeout_ms / 1000) + 2
        plain: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "proxy_headers": False}
        plain |= {"lifespan": "off", "ws": "none", "http": Connection}
        limits: dict[str, Any] = {
            "limit_concurrency": most_connections(),
            "timeout_keep_alive": _IDLE_SECONDS,
            "timeout_graceful_shutdown": grace,
        }
        super().__init__(uvicorn.Config(app(service), **plain, **limits))

    async def run(self) -> int | None:  # type: ignore[override]
        """Serve; the signal that ended it."""
        config, log = self.service.config, self.service.log
        self._loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():  # others get no signals
            self._loop.add_signal_handler(signal.SIGHUP, self._swap)
        serving = asyncio.create_task(self.serve(sockets=[self.listener]))
        try:
            host, port = self.listener.getsockname()[:2]
            log.info("listening", address=f"http://{f'[{host}]' if ':' in host else host}:{port}", stop="Ctrl-C or SIGTERM")
            if config.host not in _LOOPBACK and not self.service.guarded:
                log.warning("anybody who reaches this address may use it", advice="set serve.token_file")
            await asyncio.to_thread(self.service.load)
            gc.collect()
            gc.freeze()  # what is here now stays: no collection need look at it again
            if config.grpc_port is not None and not self.service.draining:
                os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines say what an error here says
                from deploy.serving.oip import over_grpc  # grpcio only where it is used

                self._grpc, bound = await over_grpc.start(self.service, config.host, config.grpc_port)
                log.info("listening", address=f"grpc://{host}:{bound}")
            await serving
        finally:
            self.should_exit = True
            await asyncio.gather(serving, self._stop_grpc())
            await asyncio.to_thread(self.service.close)
        return self.caught

    async def _stop_grpc(self) -> None:
        """Take no more calls, and give those under way their time."""
        if self._grpc is not None:
            await self._grpc.stop(None if self.force_exit else self.service.config.timeout_ms / 1000)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal turns the server not ready, and closes it when that has been seen; the second closes it at once."""
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
        async def swap() -> None:
            with contextlib.suppress(Exception):  # logged; the bundle before is still served
                await asyncio.to_thread(self.service.load)

        self._swapping = asyncio.ensure_future(swap())
