"""A bundle over HTTP: POST /v1/detect takes an image, /v2/ answers the Open Inference Protocol's questions about health and model."""

import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message

from deploy import preprocess
from deploy.bundle import Bundle
from deploy.detections import to_coco
from deploy.errors import ConfigError, DataError
from deploy.predictor import Predictor, Timings
from deploy.runtimes import Session

MAX_BODY_BYTES = 32 << 20


def app(bundle: Bundle, session: Session, *, max_body_bytes: int = MAX_BODY_BYTES) -> Starlette:
    """The application. The caller closes the session when the server has ended."""
    service = _Service(bundle, Predictor(session, bundle.manifest.contract), max_body_bytes)
    routes = [
        Route("/v1/detect", service.detect, methods=["POST"]),
        Route("/v2/health/live", service.live, methods=["GET"]),
        Route("/v2/health/ready", service.ready, methods=["GET"]),
        Route("/v2/models/{name}", service.model, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refuse})


def serve(folder: Path, *, host: str = "127.0.0.1", port: int = 8000, allow_ungated: bool = False) -> None:
    """Serve a bundle until interrupted.

    Raises:
        ArtifactError: the bundle is damaged, or its gates have not passed and that is not allowed.
        RuntimeUnavailable: its engine cannot run here.
        ConfigError: the address cannot be listened on.
    """
    bundle = Bundle.load(folder)
    if not allow_ungated:
        bundle.refuse_ungated()
    with _listen(host, port) as listener, bundle.open() as session:
        config = uvicorn.Config(app(bundle, session), log_level="info")
        # uvicorn does not name an address that it did not open itself
        shown = f"[{host}]" if ":" in host else host
        logging.getLogger("uvicorn.error").info("Listening on http://%s:%d (Ctrl-C ends it)", shown, listener.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """An open port; uvicorn, asked to open one that is taken, would end the program with an exit code of its own."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise ConfigError(f"cannot listen on {host}, port {port} ({reason}); give another --host or --port") from error


class _Service:
    """The routes. A session answers one request at a time: runtimes differ in what they allow, and one uses all cores anyhow."""

    def __init__(self, bundle: Bundle, predictor: Predictor, max_body_bytes: int) -> None:
        self.bundle = bundle
        self.predictor = predictor
        self.max_body_bytes = max_body_bytes
        self.lock = threading.Lock()

    async def detect(self, request: Request) -> Response:
        """Find objects in the image that is the body, or the first file of a multipart form."""
        content = await _content(request, self.max_body_bytes)
        try:
            answer = await run_in_threadpool(self._detect, content)
        except DataError as error:
            raise HTTPException(400, str(error)) from error
        return JSONResponse(answer)

    def _detect(self, content: bytes) -> dict[str, Any]:
        image = preprocess.load_image(content)
        with self.lock:
            found, timings = self.predictor.timed(image)
        contract = self.bundle.manifest.contract
        names = dict(zip(contract.category_ids, contract.classes, strict=True))
        detections = [
            {"category": names[one["category_id"]], **{key: value for key, value in one.items() if key != "image_id"}}
            for one in to_coco(found, 0, contract)
        ]
        height, width = image.shape[:2]
        return {
            "model": self.bundle.manifest.name,
            "width": width,
            "height": height,
            "detections": detections,
            "timings_ms": _milliseconds(timings),
        }

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """The engine is open: the application is made of an open one."""
        return JSONResponse({"ready": True})

    async def model(self, request: Request) -> Response:
        """The Open Inference Protocol's model metadata."""
        manifest = self.bundle.manifest
        if request.path_params["name"] != manifest.name:
            raise HTTPException(404, f"no model '{request.path_params['name']}'; this server has {manifest.name}")
        size, most = manifest.contract.preprocessing, manifest.graph.max_detections
        outputs = [
            ("boxes", "FP32", [-1, most, 4]),
            ("scores", "FP32", [-1, most]),
            ("labels", "INT64", [-1, most]),
            ("converged", "BOOL", [-1]),
            *([("masks", "FP32", [-1, most, -1, -1])] if manifest.contract.mask_frame else []),
        ]
        return JSONResponse(
            {
                "name": manifest.name,
                "versions": ["1"],
                "platform": f"edgedistill_{manifest.runtime}",
                "inputs": [_tensor("images", "FP32", [-1, 3, size.height, size.width])],
                "outputs": [_tensor(*output) for output in outputs],
            }
        )


async def _content(request: Request, limit: int) -> bytes:
    """The image's bytes."""
    limited = Request(request.scope, _limited(request.receive, limit))
    if not limited.headers.get("content-type", "").startswith("multipart/form-data"):
        return await limited.body()
    async with limited.form(max_files=16, max_fields=16) as form:
        file = next((value for value in form.values() if isinstance(value, UploadFile)), None)
        if file is None:
            raise HTTPException(400, "the form holds no file; send an image as one, or as the body itself")
        return await file.read()


def _limited(receive: Callable[[], Awaitable[Message]], limit: int) -> Callable[[], Awaitable[Message]]:
    """Stop reading a body at `limit` bytes, whatever length it claims."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, f"the body is above {limit:,} bytes; send a smaller image")
        return message

    return receive_limited


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": " ".join(error.detail.split())}, error.status_code, headers=error.headers)


def _milliseconds(timings: Timings) -> dict[str, float]:
    return {
        "pre": timings.pre_ms,
        "infer": timings.infer_ms,
        "post": timings.post_ms,
        "end_to_end": timings.end_to_end_ms,
    }


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}
