"""What every HTTP request passes first: a request id, the token, and at the end a line in the log and a count in the metrics."""

import re
import secrets
import traceback
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from deploy.errors import ArtifactError
from deploy.serving.logs import REQUEST_ID
from deploy.serving.refusals import Refusal
from deploy.serving.service import Service

OPEN = re.compile(r"/|/openapi\.json|/v2/health/(live|ready)")
"""What needs no token: health for whoever restarts servers, and what says nothing of the model."""
_QUIET = re.compile(r"/v2/health/.*|/metrics|/v2/models/[^/]+(/versions/[^/]+)?/ready")


class Front:
    """The ASGI application: routes, and what stands before them all."""

    def __init__(self, routes: Sequence[Route], service: Service) -> None:
        self.routes = list(routes)
        self.service = service
        self._router = Router(self.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        scope["app"] = self  # so that the router raises what it refuses
        started = perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        identity = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        answer = _Answer(send, identity, closing=self.service.draining)
        why: dict[str, Any] = {}
        try:
            if not OPEN.fullmatch(scope["path"]):
                self.service.authorize(headers.get("authorization"))
            await self._router(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - answered as what it is, the unexpected with its traceback in the log
            why = self._explain(error)
            await self._refuse(error, answer, scope, receive)
        seconds = perf_counter() - started
        endpoint = scope.get("endpoint")
        self.service.metrics.request(getattr(endpoint, "__name__", "none"), str(answer.status), seconds)
        if why or not _QUIET.fullmatch(scope["path"]):
            about = {"request_id": identity, "method": scope["method"], "path": scope["path"][:200], "status": answer.status}
            self.service.log.info("request", **about, seconds=round(seconds, 6), **why)

    def _explain(self, error: Exception) -> dict[str, Any]:
        if isinstance(error, Refusal):
            self.service.metrics.error(error.kind)
            return {"reason": _line(error)}
        if isinstance(error, HTTPException):
            self.service.metrics.error("invalid")
            return {"reason": error.detail}
        if isinstance(error, ArtifactError):
            self.service.metrics.error("engine")
            return {"reason": _line(error)}
        self.service.metrics.error("internal")
        return {"reason": _line(error), "traceback": traceback.format_exception(error)}

    async def _refuse(self, error: Exception, answer: "_Answer", scope: Scope, receive: Receive) -> None:
        if answer.status:  # it has begun; the connection breaks, which says that the answer is not whole
            return
        if isinstance(error, Refusal):
            status, text, headers = error.status, _line(error), error.headers
        elif isinstance(error, HTTPException):
            status, text, headers = error.status_code, " ".join(error.detail.split()), dict(error.headers or {})
        elif isinstance(error, ArtifactError):
            status, text, headers = 500, _line(error), {}
        else:
            status, text, headers = 500, "unexpected; the server's log has more, by the request id", {}
        await JSONResponse({"error": text}, status, headers=headers)(scope, receive, answer)


class _Answer:
    """`send`, with the request id in the headers; remembers the status."""

    def __init__(self, send: Send, identity: str, *, closing: bool) -> None:
        self._send = send
        self._identity = identity
        self._closing = closing
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._identity
            if self._closing:  # a client that keeps its connection would meet a closed one
                headers["connection"] = "close"
        await self._send(message)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
