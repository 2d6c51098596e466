"""Errors that a server returns instead of a result, each with its HTTP status and gRPC code."""

from math import ceil


class Refusal(Exception):
    """Base class; the message is one line for the client."""

    status = 500
    grpc = "INTERNAL"
    kind = "internal"

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        return {}


class Invalid(Refusal):
    """A malformed request, or an unreadable image."""

    status = 400
    grpc = "INVALID_ARGUMENT"
    kind = "invalid"


class NotReady(Refusal):
    """A negative answer to a health check; the protocol requires 4xx."""

    status = 400
    grpc = "UNAVAILABLE"
    kind = "not_ready"


class Unauthorized(Refusal):
    """A missing or wrong token."""

    status = 401
    grpc = "UNAUTHENTICATED"
    kind = "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer: the accepted scheme."""
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(Refusal):
    """A request that this server refuses to every client."""

    status = 403
    grpc = "PERMISSION_DENIED"
    kind = "forbidden"


class Unknown(Refusal):
    """Unknown model, version or path."""

    status = 404
    grpc = "NOT_FOUND"
    kind = "unknown"


class TooSlow(Refusal):
    """The body did not arrive in time."""

    status = 408
    grpc = "DEADLINE_EXCEEDED"
    kind = "slow_body"


class TooLarge(Refusal):
    """A body, an image or a number of images above the limit."""

    status = 413
    grpc = "RESOURCE_EXHAUSTED"
    kind = "too_large"


class Unsupported(Refusal):
    """An unsupported content encoding."""

    status = 415
    grpc = "INVALID_ARGUMENT"
    kind = "unsupported"


class Gone(Refusal):
    """The client hung up; nobody reads this answer."""

    status = 499
    grpc = "CANCELLED"
    kind = "client_gone"


class Busy(Refusal):
    """No room, no time, or no engine at the moment."""

    status = 503
    grpc = "UNAVAILABLE"
    kind = "busy"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer: when to retry, in whole seconds."""
        return {"Retry-After": str(max(1, ceil(self.retry_after_s)))}


class Expired(Refusal):
    """Accepted, but not finished within the request's time."""

    status = 504
    grpc = "DEADLINE_EXCEEDED"
    kind = "expired"
