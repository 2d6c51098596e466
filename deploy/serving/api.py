"""The HTTP application: POST /v1/detect, the page, /metrics, and the Open Inference Protocol of `oip.over_http`."""

from functools import cache, partial
from pathlib import Path

import yaml
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from deploy.serving import body, detect, metrics
from deploy.serving.front import Front
from deploy.serving.oip import over_http
from deploy.serving.refusals import Invalid
from deploy.serving.service import Service

_HERE = Path(__file__).parent
_PAGE_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'"


def app(service: Service) -> Front:
    """The application around a service, which the caller loads and closes."""
    endpoints = Endpoints(service)
    routes = [
        Route("/", endpoints.page, methods=["GET"]),
        Route("/openapi.json", endpoints.openapi, methods=["GET"]),
        Route("/metrics", endpoints.metrics, methods=["GET"]),
        Route("/v1/detect", endpoints.detect, methods=["POST"]),
        *over_http.routes(service),
    ]

    return Front(routes, service)  # not wrapped in Starlette: Front replaces its middleware


class Endpoints:
    """The endpoints of `app`."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def detect(self, request: Request) -> Response:
        """Find objects in the image in the body, in the files of a multipart form, or in the images of a JSON body."""
        config = self.service.config
        min_score = number_parameter(request.query_params.get("min_score"), "min_score", 0.0, 1.0)
        timeout_ms = number_parameter(request.headers.get("x-timeout-ms"), "X-Timeout-Ms", 1.0, 1e9)
        with self.service.admit(timeout_ms=timeout_ms, client=self.service.client(*(request.client or ("", 0)))) as work:
            files = await body.read_files(request, self.service.limits(work), config.max_images)
            decoding = partial(detect.answer, work, files, max_pixels=config.max_pixels, decoders=self.service.decoders)
            found = partial(decoding, min_score=min_score or 0.0)
            answer = await self.service.run(work, found, num_images=len(files), receive=request.receive)
        return Response(answer, media_type="application/json")

    async def page(self, request: Request) -> Response:
        """A page for trying the detector by hand."""
        return HTMLResponse(page(), headers={"content-security-policy": _PAGE_POLICY, "referrer-policy": "no-referrer"})

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document: all requests and responses."""
        return JSONResponse(openapi())

    async def metrics(self, request: Request) -> Response:
        """Metrics for Prometheus."""
        return Response(await self.service.metrics_text(), headers={"content-type": metrics.CONTENT_TYPE})


def number_parameter(text: str | None, name: str, low: float, high: float) -> float | None:
    """The number in a query or header.

    Raises:
        Invalid: it is not a number, or out of range.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise Invalid(f"{name} {text[:40]!r}; allowed: {low:g} to {high:g}")
    return value


@cache
def page() -> str:
    """The page's HTML."""
    return (_HERE / "page.html").read_text(encoding="utf-8")


@cache
def openapi() -> dict[str, object]:
    """The OpenAPI document."""
    document: dict[str, object] = yaml.safe_load((_HERE / "openapi.yaml").read_text(encoding="utf-8"))
    return document
