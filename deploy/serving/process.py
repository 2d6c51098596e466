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
"""Maximum idle time of a connection between two requests."""
_FIRST_SECONDS = 1
"""Time that a connection opened just before shutdown has to send its request."""


def serve(folder: Path, config: ServeConfig | None = None, *, allow_ungated: bool = False) -> None:
    """Serve a bundle until SIGTERM or Ctrl-C, then finish the accepted requests.

    Raises:
        ArtifactError: the bundle is damaged, fails its test, or its gates have not passed on such a machine and `allow_ungated` is false.
        RuntimeUnavailable: its engine cannot run on this machine.
        ConfigError: the server cannot listen on an address, or the token cannot be read.
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
    """Maximum number of connections within the limit on open files, of which some are reserved for the engine and the log."""
    try:
        import resource
    except ImportError:  # Windows
        return _MAX_CONNECTIONS
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(_MAX_CONNECTIONS, soft - 128))


class Connection(HttpToolsProtocol):
    """Adds time limits to uvicorn's, which waits forever for headers and, at shutdown, closes on clients that have just connected."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit for the first request's headers."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """Restart the time limit at the first byte of a request."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Stop the time limit; from here on the body's applies."""
        self._stop_waiting()
        super().on_headers_complete()

    def shutdown(self) -> None:
        """Shut down: a client that has sent nothing yet may still send its request; others close when idle, or with their answer."""
        if self.cycle is None:
            self._wait(_FIRST_SECONDS)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limit."""
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
    """An open port; opened here, because uvicorn would end the program with its own exit code if the port is taken.

    Raises:
        ConfigError: the port cannot be opened.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_MAX_CONNECTIONS)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise ConfigError(f"cannot listen on {host}, port {port} ({reason}); pass a different --host or --port") from error


class _Server(uvicorn.Server):
    """uvicorn with our own signal handling: uvicorn closes at the first signal, before load balancers know."""

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
        """Serve, and return the signal that ended it."""
        config, log = self.service.config, self.service.log
        self._loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():  # other threads receive no signals
            self._loop.add_signal_handler(signal.SIGHUP, self._swap)
        serving = asyncio.create_task(self.serve(sockets=[self.listener]))
        try:
            host, port = self.listener.getsockname()[:2]
            log.info("listening", address=f"http://{f'[{host}]' if ':' in host else host}:{port}", stop="Ctrl-C or SIGTERM")
            if config.host not in _LOOPBACK and not self.service.guarded:
                log.warning("anyone who can reach this address can use it", advice="set serve.token_file")
            await asyncio.to_thread(self.service.load)
            gc.collect()
            gc.freeze()  # everything allocated so far stays: collections need not scan it again
            if config.grpc_port is not None and not self.service.draining:
                os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines would repeat our errors
                from deploy.serving.oip import over_grpc  # load grpcio only if it is used

                self._grpc, bound = await over_grpc.start(self.service, config.host, config.grpc_port)
                log.info("listening", address=f"grpc://{host}:{bound}")
            await serving
        finally:
            self.should_exit = True
            await asyncio.gather(serving, self._stop_grpc())
            await asyncio.to_thread(self.service.close)
        return self.caught

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
        async def swap() -> None:
            with contextlib.suppress(Exception):  # already logged; the previous bundle is still served
                await asyncio.to_thread(self.service.load)

        self._swapping = asyncio.ensure_future(swap())
