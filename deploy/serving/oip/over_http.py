"""The Open Inference Protocol over HTTP, with Triton's binary tensors: a JSON header, then the bytes of each tensor in order."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deploy.bundles.bundle import Bundle
from deploy.errors import EdgedistillError
from deploy.serving import body
from deploy.serving.model import Model
from deploy.serving.oip import protocol
from deploy.serving.options import MIB
from deploy.serving.refusals import Forbidden, Invalid, NotReady, TooLarge
from deploy.serving.service import Service
from deploy.serving.work import Work

HEADER_LENGTH = "inference-header-content-length"
_LONGEST_NUMBER = 26
"""Maximum characters of a number in JSON: sign, seventeen digits, point, exponent, comma, space."""

_BYTES_PER_NUMBER = 32
"""Memory of a number once it is parsed: an object and its place in a list."""
_MOST_OTHERS = 10_000
"""Maximum number of values that are not part of an image."""


class _Lenient(BaseModel):
    """Ignores unknown fields, as the protocol requires."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class InputTensor(_Lenient):
    """A tensor of a request; `data` is flat or nested, and absent if the tensor follows as bytes."""

    name: str
    datatype: str
    shape: Annotated[list[int], Field(max_length=8), FailFast()]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputTensor(_Lenient):
    """A requested output."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(_Lenient):
    """The JSON of an inference request."""

    id: str | None = None
    inputs: Annotated[list[InputTensor], FailFast()]
    outputs: Annotated[list[OutputTensor], FailFast()] = []
    parameters: dict[str, Any] = {}


@dataclass(frozen=True)
class ResponseFormat:
    """Format of an answer: which outputs, and which of them as bytes."""

    id: str | None
    outputs: tuple[str, ...]
    binary: frozenset[str]


def routes(service: Service) -> list[Route]:
    """The protocol's routes."""
    http = HttpEndpoints(service)
    given = [
        ("/v2", http.server, "GET"),
        ("/v2/health/live", http.live, "GET"),
        ("/v2/health/ready", http.ready, "GET"),
        ("/v2/models/stats", http.stats, "GET"),
        *((f"/v2/models/{{name}}{version}", http.model, "GET") for version in ("", "/versions/{version}")),
        *((f"/v2/models/{{name}}{version}/ready", http.model_ready, "GET") for version in ("", "/versions/{version}")),
        *((f"/v2/models/{{name}}{version}/config", http.config, "GET") for version in ("", "/versions/{version}")),
        *((f"/v2/models/{{name}}{version}/stats", http.stats, "GET") for version in ("", "/versions/{version}")),
        *((f"/v2/models/{{name}}{version}/infer", http.infer, "POST") for version in ("", "/versions/{version}")),
        ("/v2/repository/index", http.index, "POST"),
        ("/v2/repository/models/{name}/load", http.load, "POST"),
    ]
    return [Route(path, endpoint, methods=[method]) for path, endpoint, method in given]


class HttpEndpoints:
    """The endpoints of `routes`."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def server(self, request: Request) -> Response:
        """The server's name and extensions."""
        from importlib.metadata import version

        return JSONResponse(protocol.server_metadata(version("edgedistill")))

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """The engine is warm, and the server is not draining."""
        if not self.service.ready:
            raise NotReady("the server is draining" if self.service.draining else "the engine is being loaded")
        return JSONResponse({"ready": True})

    async def model(self, request: Request) -> Response:
        """The model's tensors."""
        with self._lease(request) as model:
            return JSONResponse(protocol.model_metadata(model))

    async def model_ready(self, request: Request) -> Response:
        """As `ready`, for one model."""
        await self.ready(request)
        with self._lease(request) as model:
            return JSONResponse({"name": model.name, "ready": True})

    async def config(self, request: Request) -> Response:
        """Triton's model configuration."""
        with self._lease(request) as model:
            return JSONResponse(protocol.model_config(model))

    async def stats(self, request: Request) -> Response:
        """Triton's statistics, of the model that is named or, as only one is served, of all."""
        with self._lease(request) as model:
            return JSONResponse(protocol.statistics(model, await self.service.totals()))

    async def index(self, request: Request) -> Response:
        """Triton's list of models."""
        with self.service.lease() as model:
            state = "READY" if self.service.ready else "UNAVAILABLE"
            return JSONResponse([{"name": model.name, "version": str(model.version), "state": state, "reason": ""}])

    async def load(self, request: Request) -> Response:
        """Load the bundle that is now in the served folder; allowed only if the server requires a token."""
        if not self.service.guarded:
            raise Forbidden("requests may load models only if serve.token_file is set; send the process SIGHUP instead")
        with self._lease(request):
            pass
        try:
            await run_in_threadpool(self.service.load)
        except EdgedistillError as error:
            raise Invalid(f"the previous bundle is still served: {error}") from error
        return JSONResponse({})

    async def infer(self, request: Request) -> Response:
        """Run the engine on tensors."""
        with self.service.admit(*_name(request), client=self.service.client(*(request.client or ("", 0)))) as work:
            content = await body.read(request, self.service.limits(work))
            answered = partial(self._infer, work, content, request.headers.get(HEADER_LENGTH))
            answer, head = await self.service.run(work, answered, receive=request.receive)
        if head is None:
            return Response(answer, media_type="application/json")
        return Response(answer, media_type="application/octet-stream", headers={HEADER_LENGTH: str(head)})

    def _infer(self, work: Work, content: bytes, header: str | None) -> tuple[bytes, int | None]:
        with work.turn():
            images, form = parse(work, content, header, self.service.config.max_images)
        return write(work.model, protocol.infer(work, images), form)

    def _lease(self, request: Request) -> Any:
        return self.service.lease(*_name(request))


def _name(request: Request) -> tuple[str | None, str | None]:
    return request.path_params.get("name"), request.path_params.get("version")


def parse(work: Work, content: bytes, header: str | None, max_images: int) -> tuple[Any, ResponseFormat]:
    """The images [n, 3, H, W] of a request, after counting them, and how to answer.

    Raises:
        Invalid: the request does not match the protocol or the model. Bytes may encode any number, because load generators send noise.
        TooLarge: more than max_images.
        Busy, Gone: see Work.place.
    """
    length = _header_length(header, len(content))
    size = work.model.contract.preprocessing
    longest = max_images * 3 * size.height * size.width * _LONGEST_NUMBER + MIB
    if length > longest:
        raise TooLarge(f"{length:,} bytes of JSON; {max_images} images need at most {longest:,}")
    _hold_values(work, content[:length], max_images)
    try:
        request = InferRequest.model_validate_json(content[:length])
    except ValidationError as error:
        first = error.errors()[0]
        raise Invalid(f"the request's {'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg'][:200]}") from error
    work.limit(protocol.timeout_ms(request.parameters))
    form = _form(work.model.bundle, request)
    one, rest = protocol.only_input(request.inputs), memoryview(content)[length:]
    protocol.admit_input(work, one.name, one.datatype, one.shape, max_images)
    images = _binary(one, rest) if "binary_data_size" in one.parameters else _plain(one, rest)
    return images, form


def _hold_values(work: Work, content: bytes, max_images: int) -> None:
    """Count the numbers of a JSON text as what they become, before it is parsed.

    Raises:
        TooLarge: more numbers or lists than `max_images` can have.
        Busy: see Claim.hold.
    """
    size = work.model.contract.preprocessing
    numbers = protocol.most_numbers(work.model, max_images) + _MOST_OTHERS
    lists = max_images * 3 * (size.height + 1) + _MOST_OTHERS
    commas = content.count(b",")
    for mark, found, most in ((",", commas, numbers), ("[", content.count(b"["), lists), ("{", content.count(b"{"), _MOST_OTHERS)):
        if found > most:
            raise TooLarge(f"JSON with {found:,} times '{mark}'; at most {most:,} are parsed; send the tensor as binary data")
    if commas > _MOST_OTHERS:
        work.claim.hold(commas * _BYTES_PER_NUMBER)


def write(model: Model, values: Mapping[str, Any], form: ResponseFormat) -> tuple[bytes, int | None]:
    """The answer's bytes, and the length of its JSON if tensors follow as bytes."""
    outputs: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for name in form.outputs:
        value = values[name]
        described: dict[str, Any] = {"name": name, "datatype": protocol.datatype(value), "shape": list(value.shape)}
        if name in form.binary:
            tails.append(protocol.to_bytes(value))
            described["parameters"] = {"binary_data_size": len(tails[-1])}
        elif value.dtype.kind == "f" and not np.isfinite(value).all():
            raise Invalid(f"output {name} of this input has a number that is not finite, which JSON cannot encode; ask for binary data")
        else:
            described["data"] = value.ravel().tolist()
        outputs.append(described)
    identity = {} if form.id is None else {"id": form.id}
    head = to_json({"model_name": model.name, "model_version": str(model.version), **identity, "outputs": outputs})
    return (b"".join([head, *tails]), len(head)) if tails else (head, None)


def _form(bundle: Bundle, request: InferRequest) -> ResponseFormat:
    protocol.check_supported([*(one.parameters for one in request.inputs), *(one.parameters for one in request.outputs)])
    names = protocol.check_outputs(bundle, [one.name for one in request.outputs])
    every = request.parameters.get("binary_data_output") is True
    own = {one.name: one.parameters.get("binary_data", every) is True for one in request.outputs}
    binary = frozenset(name for name in names if own.get(name, every))
    return ResponseFormat(request.id, names, binary)


def _header_length(header: str | None, total: int) -> int:
    if header is None:
        return total
    if not (header.isascii() and header.isdigit()) or len(header) > 18 or int(header) > total:
        raise Invalid(f"{HEADER_LENGTH} {header[:20]!r}; the body has {total:,} bytes")
    return int(header)


def _binary(one: InputTensor, rest: memoryview) -> Any:
    size = one.parameters["binary_data_size"]
    if isinstance(size, bool) or not isinstance(size, int) or size != len(rest) or one.data is not None:
        raise Invalid(
            f"input {one.name}: binary_data_size {str(size)[:20]}, but {len(rest):,} bytes follow the JSON, and data must be absent"
        )
    return protocol.from_bytes(rest, one.datatype, one.shape)


def _plain(one: InputTensor, rest: memoryview) -> Any:
    if one.data is None or rest:
        raise Invalid(f"input {one.name} has no data; send data, or parameter binary_data_size and {HEADER_LENGTH}")
    try:
        with np.errstate(over="ignore"):  # becomes infinite, and is refused for that
            values = np.array(one.data, np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise Invalid(f"input {one.name}: data must be numbers, flat or nested according to its shape") from error
    if values.size != int(np.prod(one.shape, dtype=np.int64)):
        raise Invalid(f"input {one.name}: {values.size:,} numbers for shape {one.shape}")
    if not np.isfinite(values).all():
        raise Invalid(f"input {one.name} contains a number that is not finite in float32")
    return values.reshape(one.shape)
