"""The outer layer of every HTTP request: assigns a request id, checks the token, then logs the request and counts it in the metrics."""

import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from deploy.errors import ArtifactError
from deploy.serving.logs import request_id
from deploy.serving.options import LOOPBACK, ServeConfig
from deploy.serving.refusals import Busy, Forbidden, Refusal
from deploy.serving.service import Service

OPEN = re.compile(r"/|/openapi\.json|/v2/health/(live|ready)")
"""Paths that need no token: health, for orchestrators, and pages that reveal nothing about the model."""
HEALTH = re.compile(r"/v2/health/(live|ready)")
"""Paths that are answered whatever the load."""
_QUIET = re.compile(r"/v2/health/.*|/metrics|/v2/models/[^/]+(/versions/[^/]+)?/ready")


class Front:
    """The ASGI application: routes, and the checks in front of all of them."""

    def __init__(self, routes: Sequence[Route], service: Service) -> None:
        self.routes = list(routes)
        self.service = service
        self._router = Router(self.routes)
        self._hosts = hosts(service.config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        scope["app"] = self  # makes the router raise its refusals
        started = perf_counter()
        headers = Headers(scope=scope)
        identity = request_id(headers.get("x-request-id", ""))
        crowded = scope.get("state", {}).get("crowded", False)
        answer = _Answer(send, identity, closing=self.service.draining or crowded)
        refused: _Refused | None = None
        try:
            self._check(scope, headers, crowded=crowded)
            await self._router(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - answered by kind; if unexpected, its traceback is logged
            refused = _refused(error)
        if refused is not None:  # not above, since the error's traceback holds the body, which no longer counts
            self.service.metrics.error(refused.kind)
            scope.setdefault("state", {})["busy"] = refused.kind == Busy.kind  # for the connection
            if not answer.status:  # otherwise the answer has begun; the broken connection shows that it is incomplete
                await JSONResponse({"error": refused.text}, refused.status, headers=refused.headers)(scope, receive, answer)
        why: Mapping[str, Any] = refused.reason if refused else {}
        seconds = perf_counter() - started
        endpoint = scope.get("endpoint")
        self.service.metrics.request(getattr(endpoint, "__name__", "none"), str(answer.status), seconds)
        if why or not _QUIET.fullmatch(scope["path"]):
            about = {"request_id": identity, "method": scope["method"], "path": scope["path"][:200], "status": answer.status}
            self.service.log.info("request", **about, seconds=round(seconds, 6), **why)

    def _check(self, scope: Scope, headers: Headers, *, crowded: bool) -> None:
        """Refuse what need not be looked at closely.

        Raises:
            Busy: the connection is above a limit.
            Forbidden: see `check_browser`.
            Unauthorized: see Service.authorize.
        """
        path = scope["path"]
        if HEALTH.fullmatch(path):
            return
        if crowded:
            raise Busy("too many connections, from this client or from all; retry later")
        check_browser(headers, self._hosts, post=scope["method"] == "POST")
        if not OPEN.fullmatch(path):
            self.service.authorize(headers.get("authorization"))


def hosts(config: ServeConfig) -> frozenset[str] | None:
    """The names that the header Host may have; None: any."""
    if config.allowed_hosts is not None:
        return frozenset(name.lower() for name in config.allowed_hosts)
    return frozenset((*LOOPBACK, config.host)) if config.host in LOOPBACK else None


def check_browser(headers: Headers, allowed: frozenset[str] | None, *, post: bool) -> None:
    """Refuse what a page of another site makes a browser send: to a name that it has made lead here, or a post across sites.

    Raises:
        Forbidden: the header Host is not among the allowed names, or a post's Origin is not the server's own.
    """
    host = headers.get("host", "")
    if allowed is not None and host_name(host) not in allowed:
        raise Forbidden(f"header Host {host[:100]!r} is not a name of this server; add it to serve.allowed_hosts")
    origin = headers.get("origin")
    if post and origin is not None and origin.lower().partition("://")[2] != host.lower():
        raise Forbidden(f"a page of {origin[:100]!r} may not post to this server")


def host_name(host: str) -> str:
    """The name or address in a header Host, in lower case, without its port and brackets."""
    name = host.lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


@dataclass(frozen=True)
class _Refused:
    """An error as reported to metrics, log and client."""

    kind: str
    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: Mapping[str, Any] = field(default_factory=dict)


def _refused(error: Exception) -> _Refused:
    text = " ".join((error.detail if isinstance(error, HTTPException) else str(error)).split())
    reason = {"reason": text}
    if isinstance(error, Refusal):
        return _Refused(error.kind, error.status, text, error.headers, reason)
    if isinstance(error, HTTPException):
        return _Refused("invalid", error.status_code, text, error.headers or {}, reason)
    if isinstance(error, ArtifactError):
        return _Refused("engine", 500, text, reason=reason)
    known = "unexpected error; the server's log has details under the request id"
    return _Refused("internal", 500, known, reason={**reason, "traceback": traceback.format_exception(error)})


class _Answer:
    """`send` that adds the request id to the headers and remembers the status."""

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
            if self._closing:  # a client that reused its connection would find it closed
                headers["connection"] = "close"
        await self._send(message)
