"""The Open Inference Protocol over gRPC."""

import asyncio
import secrets
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from deploy.errors import ArtifactError, ConfigError, EdgedistillError
from deploy.serving.logs import REQUEST_ID
from deploy.serving.oip import protocol
from deploy.serving.oip.messages import DATA_TYPES, MESSAGES, PACKAGE
from deploy.serving.refusals import Forbidden, Invalid, Refusal
from deploy.serving.service import Service
from deploy.serving.work import Work

_OPEN = ("ServerLive", "ServerReady")
_QUIET = (*_OPEN, "ModelReady")
_STREAM = "ModelStreamInfer"
STREAM_SECONDS = 75.0
"""Time that a stream may send nothing, as long as a connection over HTTP."""
_BESIDE = 32
"""Concurrent calls in addition to those that wait for the engine: health, metadata, and calls that are refused."""
_CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}


async def start(service: Service, host: str, port: int) -> tuple[Any, int]:
    """A running gRPC server, and its port.

    Raises:
        ConfigError: the server cannot listen on the address.
    """
    options = [
        ("grpc.max_receive_message_length", service.config.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        # a small message could decompress to gigabytes before our code sees it
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.per_message_decompression", 0),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=2 * service.config.queue_size + _BESIDE)
    server.add_generic_rpc_handlers((_handlers(service),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(f"cannot listen for gRPC on {host}, port {port}; pass a different --grpc-port") from error
    await server.start()
    return server, bound


def _handlers(service: Service) -> Any:
    methods = Methods(service)
    names = [name for name in vars(Methods) if name[0].isupper()]
    handlers = {name: _handler(service, name, getattr(methods, name)) for name in names if name != _STREAM}
    handlers[_STREAM] = grpc.stream_stream_rpc_method_handler(partial(_stream, service, methods), None, _serialize)
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.GRPCInferenceService", handlers)


def _handler(service: Service, name: str, method: Callable[..., Awaitable[Any]]) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        call = _Call(service, name, context)
        try:
            if name not in _OPEN:
                service.authorize(call.metadata.get("authorization"))
            context.set_trailing_metadata((("x-request-id", call.identity),))
            # a possibly large message is parsed on a thread, once there is room for it
            answered = await method(request if name == "ModelInfer" else _parse(request, f"{name}Request"), context)
        except (Exception, asyncio.CancelledError) as error:
            left = context.time_remaining()
            code, text = _code(service, error, late=left is not None and left <= 0)
            call.end(code, text, error)
            if isinstance(error, asyncio.CancelledError):
                raise
            await context.abort(getattr(grpc.StatusCode, code), text, (("x-request-id", call.identity),))
        call.end()
        return answered

    return grpc.unary_unary_rpc_method_handler(answer, None, _serialize)


async def _stream(service: Service, methods: "Methods", requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
    """Answers in order; a request that is refused or fails is answered with the reason, and the stream continues."""
    try:
        service.authorize(_Call(service, _STREAM, context).metadata.get("authorization"))
    except Refusal as error:
        code, text = _code(service, error)
        await context.abort(getattr(grpc.StatusCode, code), text)
    if methods.streams >= service.config.queue_size:  # streams that send nothing must leave room for other calls
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{methods.streams} streams are open already; retry later")
    methods.streams += 1
    try:
        while True:
            try:
                async with asyncio.timeout(STREAM_SECONDS):
                    request = await anext(requests, None)
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was sent for {STREAM_SECONDS:g} s; open a new stream")
            if request is None:
                return
            call = _Call(service, _STREAM, context)
            try:
                answer = MESSAGES["ModelStreamInferResponse"](infer_response=await methods.ModelInfer(request, context))
                call.end()
            except Exception as error:  # noqa: BLE001 - answered by kind; if unexpected, its traceback is logged
                code, text = _code(service, error)
                answer = MESSAGES["ModelStreamInferResponse"](error_message=text)
                call.end(code, text, error)
            yield answer
    finally:
        methods.streams -= 1


class _Call:
    """One call, or one message of a stream: has an id, and at its end is counted in the metrics and logged."""

    def __init__(self, service: Service, name: str, context: Any) -> None:
        self.metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        given = self.metadata.get("x-request-id", "")
        self.identity = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
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


class Methods:
    """The protocol's methods, under the protocol's names."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.streams = 0

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The process answers."""
        return MESSAGES["ServerLiveResponse"](live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The engine is warm, and the server is not draining."""
        return MESSAGES["ServerReadyResponse"](ready=self.service.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """As ServerReady, for one model."""
        with self.service.lease(request.name, request.version):
            return MESSAGES["ModelReadyResponse"](ready=self.service.ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The server's name and extensions."""
        from importlib.metadata import version

        return MESSAGES["ServerMetadataResponse"](**protocol.server_metadata(version("edgedistill")))

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The model's tensors."""
        with self.service.lease(request.name, request.version) as model:
            return MESSAGES["ModelMetadataResponse"](**protocol.model_metadata(model))

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Triton's model configuration."""
        with self.service.lease(request.name, request.version) as model:
            config = protocol.model_config(model)
        for one in (*config["input"], *config["output"]):
            one["data_type"] = DATA_TYPES[one["data_type"]]
        return MESSAGES["ModelConfigResponse"](config=config)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Triton's statistics."""
        with self.service.lease(request.name or None, request.version) as model:
            found = protocol.statistics(model, self.service.metrics.total)
        for one in found["model_stats"]:
            del one["batch_stats"]
        return MESSAGES["ModelStatisticsResponse"](**found)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Triton's list of models."""
        with self.service.lease() as model:
            state = "READY" if self.service.ready else "UNAVAILABLE"
            return MESSAGES["RepositoryIndexResponse"](models=[{"name": model.name, "version": str(model.version), "state": state}])

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Load the bundle that is now in the served folder; allowed only if the server requires a token."""
        if not self.service.guarded:
            raise Forbidden("requests may load models only if serve.token_file is set; send the process SIGHUP instead")
        with self.service.lease(request.model_name):
            pass
        try:
            await asyncio.get_running_loop().run_in_executor(None, self.service.load)
        except EdgedistillError as error:
            raise Invalid(f"the previous bundle is still served: {error}") from error
        return MESSAGES["RepositoryModelLoadResponse"]()

    async def ModelInfer(self, request: bytes, context: Any) -> Any:  # noqa: N802
        """Run the engine on tensors."""
        left = context.time_remaining()
        with self.service.admit(timeout_ms=None if left is None else max(left, 0.0) * 1000) as work:
            work.claim.hold(len(request))
            return await self.service.run(work, partial(self._infer, work, request))

    def _infer(self, work: Work, content: bytes) -> Any:
        model = work.model
        with work.turn():
            request = _parse(content)
            model.check_name(request.model_name, request.model_version)
            if "timeout" in request.parameters:
                work.limit(protocol.timeout_ms({"timeout": _value(request.parameters["timeout"])}))
            protocol.check_supported([*(one.parameters for one in request.inputs), *(one.parameters for one in request.outputs)])
            outputs = protocol.check_outputs(model.bundle.manifest, [one.name for one in request.outputs])
            images, raw = _images(work, request, self.service.config.max_images)
        values = protocol.infer(work, images)
        answer = MESSAGES["ModelInferResponse"](model_name=model.name, model_version=str(model.version), id=request.id)
        for name in outputs:
            value = values[name]
            kind = protocol.datatype(value)
            tensor = answer.outputs.add(name=name, datatype=kind, shape=value.shape)
            if raw:
                answer.raw_output_contents.append(protocol.to_bytes(value))
            else:
                getattr(tensor.contents, _CONTENTS[kind]).extend(value.ravel().tolist())
        return answer


def _parse(content: bytes, kind: str = "ModelInferRequest") -> Any:
    try:
        return MESSAGES[kind].FromString(content)
    except DecodeError as error:
        raise Invalid(f"not a {kind} ({error})") from error


def _value(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _images(work: Work, request: Any, max_images: int) -> tuple[Any, bool]:
    """The images [n, 3, H, W], after counting them, and whether they were sent as raw bytes, in which case the outputs are, too."""
    if len(request.inputs) != 1:
        raise Invalid(f"{len(request.inputs)} inputs; this model has one: {protocol.INPUT}")
    one = request.inputs[0]
    shape = tuple(one.shape)
    protocol.admit_input(work, one.name, one.datatype, shape, max_images)
    raw = len(request.raw_input_contents) > 0
    if raw and (len(request.raw_input_contents) != 1 or one.HasField("contents")):
        raise Invalid("send either one raw_input_contents per input or contents, not both")
    if raw:
        images = protocol.from_bytes(request.raw_input_contents[0], one.datatype, shape)
    else:
        images = np.array(one.contents.fp32_contents, np.float32)
        if images.size != int(np.prod(shape, dtype=np.int64)):
            raise Invalid(f"input {one.name}: {images.size:,} numbers in fp32_contents for shape {list(shape)}")
        images = images.reshape(shape)
    return images, raw
