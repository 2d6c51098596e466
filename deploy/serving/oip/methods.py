"""The methods of the Open Inference Protocol over gRPC: from a parsed message, or its bytes, to the answer."""

import asyncio
from functools import partial
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from deploy.errors import EdgedistillError
from deploy.serving.clients import peer_host
from deploy.serving.oip import protocol
from deploy.serving.oip.messages import DATA_TYPES, MESSAGES
from deploy.serving.refusals import Forbidden, Invalid, TooLarge
from deploy.serving.service import Service
from deploy.serving.work import Work

_CONTENTS = {"FP32": "fp32_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}


class Methods:
    """The protocol's methods, under the protocol's names."""

    def __init__(self, service: Service) -> None:
        self.service = service

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
            found = protocol.statistics(model, await self.service.totals())
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
        timeout_ms = None if left is None else max(left, 0.0) * 1000
        with self.service.admit(timeout_ms=timeout_ms, client=client(self.service, context)) as work:
            work.claim.hold(len(request))
            return await self.service.run(work, partial(self._infer, work, request))

    def _infer(self, work: Work, content: bytes) -> Any:
        model = work.model
        with work.turn():
            request = parse(content)
            model.check_name(request.model_name, request.model_version)
            if "timeout" in request.parameters:
                work.limit(protocol.timeout_ms({"timeout": _value(request.parameters["timeout"])}))
            protocol.check_supported([*(one.parameters for one in request.inputs), *(one.parameters for one in request.outputs)])
            outputs = protocol.check_outputs(model.bundle, [one.name for one in request.outputs])
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


def client(service: Service, context: Any) -> str:
    """Who counts as one client: an address, or of a trusted proxy each call."""
    return service.client(peer_host(context.peer()), id(context))


def parse(content: bytes, kind: str = "ModelInferRequest") -> Any:
    """A message from its bytes.

    Raises:
        Invalid: they are not such a message.
    """
    try:
        return MESSAGES[kind].FromString(content)
    except DecodeError as error:
        raise Invalid(f"not a {kind} ({error})") from error


def _value(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _images(work: Work, request: Any, max_images: int) -> tuple[Any, bool]:
    """The images [n, 3, H, W], after counting them, and whether they were sent as raw bytes, in which case the outputs are, too."""
    one = protocol.only_input(request.inputs)
    shape = tuple(one.shape)
    protocol.admit_input(work, one.name, one.datatype, shape, max_images)
    raw = len(request.raw_input_contents) > 0
    if raw and (len(request.raw_input_contents) != 1 or one.HasField("contents")):
        raise Invalid("send either one raw_input_contents per input or contents, not both")
    if raw:
        images = protocol.from_bytes(request.raw_input_contents[0], one.datatype, shape)
    else:
        if len(one.contents.fp32_contents) > (most := protocol.most_numbers(work.model, max_images)):
            raise TooLarge(f"{len(one.contents.fp32_contents):,} numbers in fp32_contents, at most {most:,}; send raw_input_contents")
        images = np.array(one.contents.fp32_contents, np.float32)
        if images.size != int(np.prod(shape, dtype=np.int64)):
            raise Invalid(f"input {one.name}: {images.size:,} numbers in fp32_contents for shape {list(shape)}")
        images = images.reshape(shape)
    return images, raw
