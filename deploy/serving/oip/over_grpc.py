"""The Open Inference Protocol over gRPC."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any

import grpc

from deploy.errors import ArtifactError, ConfigError
from deploy.serving.clients import Share
from deploy.serving.logs import request_id
from deploy.serving.oip.messages import MESSAGES, PACKAGE
from deploy.serving.oip.methods import Methods, client, parse
from deploy.serving.refusals import Refusal, TooSlow
from deploy.serving.service import Service

_OPEN = ("ServerLive", "ServerReady")
_QUIET = (*_OPEN, "ModelReady")
_STREAM = "ModelStreamInfer"
STREAM_SECONDS = 75.0
"""Time that a stream may send nothing, as long as a connection over HTTP."""
_STREAMS, _WAITING = 2, 2
"""Streams, and calls whose message has not come yet, per request that may be in progress; half of each from one client."""
_BESIDE = 256
"""Concurrent calls in addition to those that are counted: health, metadata, and calls that are about to be refused."""
_HANDSHAKE_SECONDS = 10.0
_PROBE_SECONDS = 2.0


async def start(service: Service, host: str, port: int, max_connections: int, *, shared: bool = False) -> tuple[Any, int]:
    """A running gRPC server, and its port.

    Args:
        shared: whether other processes of this server listen on the same port; the system deals connections out to them.

    Raises:
        ConfigError: the server cannot listen on the address.
    """
    options = [
        ("grpc.max_receive_message_length", service.config.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(shared)),
        # a small message could decompress to gigabytes before our code sees it
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.per_message_decompression", 0),
        ("grpc.max_connection_idle_ms", int(STREAM_SECONDS * 1000)),
        ("grpc.server_handshake_timeout_ms", int(_HANDSHAKE_SECONDS * 1000)),
        ("grpc.max_allowed_incoming_connections", max_connections),
    ]
    counted = (_STREAMS + _WAITING + 1) * service.config.queue_size  # the last ones wait for the engine
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=counted + _BESIDE)
    server.add_generic_rpc_handlers((_handlers(service),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(f"cannot listen for gRPC on {host}, port {port}; pass a different --grpc-port") from error
    await server.start()
    return server, bound


def _handlers(service: Service) -> Any:
    methods, arrivals = Methods(service), _Arrivals(service)
    names = [name for name in vars(Methods) if name[0].isupper()]  # ModelStreamInfer is not among them
    handlers = {name: _handler(service, methods, arrivals, name) for name in names}
    handlers[_STREAM] = grpc.stream_stream_rpc_method_handler(partial(_stream, service, methods, arrivals), None, _serialize)
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.GRPCInferenceService", handlers)


def _handler(service: Service, methods: Methods, arrivals: "_Arrivals", name: str) -> Any:
    method: Callable[..., Awaitable[Any]] = getattr(methods, name)

    async def answer(requests: AsyncIterator[bytes], context: Any) -> Any:
        call = _Call(service, name, context)
        try:
            if name not in _OPEN:
                service.authorize(call.metadata.get("authorization"))
            context.set_trailing_metadata((("x-request-id", call.identity),))
            request = await (arrivals.probe(requests) if name in _OPEN else arrivals.message(requests, context))
            # a possibly large message is parsed on a thread, once there is room for it
            answered = await method(request if name == "ModelInfer" else parse(request, f"{name}Request"), context)
        except (Exception, asyncio.CancelledError) as error:
            left = context.time_remaining()
            code, text = _code(service, error, late=left is not None and left <= 0)
            call.end(code, text, error)
            if isinstance(error, asyncio.CancelledError):
                raise
            await context.abort(getattr(grpc.StatusCode, code), text, (("x-request-id", call.identity),))
        call.end()
        return answered

    return grpc.stream_unary_rpc_method_handler(answer, None, _serialize)  # a call that sends no message is not waited for


async def _stream(
    service: Service, methods: Methods, arrivals: "_Arrivals", requests: AsyncIterator[bytes], context: Any
) -> AsyncIterator[Any]:
    """Answers in order; a request that is refused or fails is answered with the reason, and the stream continues."""
    call = _Call(service, _STREAM, context)
    try:
        service.authorize(call.metadata.get("authorization"))
        with arrivals.streams.place(client(service, context)):
            while (request := await _next(requests, STREAM_SECONDS)) is not None:
                yield await _stream_answer(service, methods, request, context)
    except Refusal as error:
        code, text = _code(service, error)
        call.end(code, text, error)
        await context.abort(getattr(grpc.StatusCode, code), text, (("x-request-id", call.identity),))


async def _stream_answer(service: Service, methods: Methods, request: bytes, context: Any) -> Any:
    call = _Call(service, _STREAM, context)
    try:
        answer = MESSAGES["ModelStreamInferResponse"](infer_response=await methods.ModelInfer(request, context))
        call.end()
    except Exception as error:  # noqa: BLE001 - answered by kind; if unexpected, its traceback is logged
        code, text = _code(service, error)
        answer = MESSAGES["ModelStreamInferResponse"](error_message=text)
        call.end(code, text, error)
    return answer


async def _next(requests: AsyncIterator[bytes], seconds: float) -> bytes | None:
    """The next message; None if there are no more.

    Raises:
        TooSlow: it does not come in time.
    """
    try:
        async with asyncio.timeout(seconds):
            return await anext(requests, None)
    except TimeoutError as error:
        raise TooSlow(f"nothing was sent for {seconds:g} s") from error


class _Call:
    """One call, one message of a stream, or a stream that is refused: has an id, and at its end is counted in the metrics and logged."""

    def __init__(self, service: Service, name: str, context: Any) -> None:
        self.metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        self.identity = request_id(self.metadata.get("x-request-id", ""))
        self._service = service
        self._name = name
        self._started = perf_counter()

    def end(self, code: str = "OK", reason: str | None = None, error: BaseException | None = None) -> None:
        """Count and log the call; failures of the engine or the server with their traceback."""
        seconds = perf_counter() - self._started
        self._service.metrics.request(f"grpc_{self._name}", code, seconds)
        why = {"reason": reason} if reason else {}
        more = {"traceback": traceback.format_exception(error)} if error is not None and code == "INTERNAL" else {}
        if why or self._name not in _QUIET:
            about = {"request_id": self.identity, "method": "gRPC", "path": self._name, "status": code}
            self._service.log.info("request", **about, seconds=round(seconds, 6), **why, **more)


def _code(service: Service, error: BaseException, *, late: bool = False) -> tuple[str, str]:
    text = " ".join(str(error).split())
    if isinstance(error, Refusal):
        service.metrics.error(error.kind)
        return error.grpc, text
    if isinstance(error, asyncio.CancelledError):
        service.metrics.error("expired" if late else "client_gone")
        return ("DEADLINE_EXCEEDED", "the request's time expired") if late else ("CANCELLED", "the client went away")
    if isinstance(error, ArtifactError):
        service.metrics.error("engine")
        return "INTERNAL", text
    service.metrics.error("internal")
    return "INTERNAL", f"unexpected {type(error).__name__}; the server's log has details"


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


class _Arrivals:
    """Calls whose messages have not come yet: they end in time, and leave places for others."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.streams = Share(_STREAMS * service.config.queue_size, "streams are open")
        self._probes = 0
        self._waiting = Share(_WAITING * service.config.queue_size, "calls wait for their message")

    async def message(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """The only message of a call.

        Raises:
            Busy: see Share.place.
            TooSlow: it does not come in time.
        """
        with self._waiting.place(client(self._service, context)):
            return await _next(requests, self._service.config.timeout_ms / 1000) or b""

    async def probe(self, requests: AsyncIterator[bytes]) -> bytes:
        """The message of a health check, which says nothing; not waited for while many others are, so that they never take all places.

        Raises:
            TooSlow: it does not come in time.
        """
        if self._probes >= _BESIDE // 2:
            return b""
        self._probes += 1
        try:
            return await _next(requests, _PROBE_SECONDS) or b""
        finally:
            self._probes -= 1
