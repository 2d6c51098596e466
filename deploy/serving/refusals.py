"""What a server answers instead of a result, each with its HTTP status and gRPC code."""

from math import ceil


class Refusal(Exception):
    """Base: one line for the client."""

    status = 500
    grpc = "INTERNAL"
    kind = "internal"

    @property
    def headers(self) -> dict[str, str]:
        """That go with the answer."""
        return {}


class Invalid(Refusal):
    """A request that is not understood, or an image that cannot be read."""

    status = 400
    grpc = "INVALID_ARGUMENT"
    kind = "invalid"


class NotReady(Refusal):
    """Asked about health, the answer is no; the protocol wants 4xx."""

    status = 400
    grpc = "UNAVAILABLE"
    kind = "not_ready"


class Unauthorized(Refusal):
    """No token, or another one."""

    status = 401
    grpc = "UNAUTHENTICATED"
    kind = "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        """What would be accepted."""
        return {"WWW-Authenticate": "Bearer"}


class Forbidden(Refusal):
    """What this server does not do for anybody."""

    status = 403
    grpc = "PERMISSION_DENIED"
    kind = "forbidden"


class Unknown(Refusal):
    """No such model, version or address."""

    status = 404
    grpc = "NOT_FOUND"
    kind = "unknown"


class TooSlow(Refusal):
    """The body did not come in time."""

    status = 408
    grpc = "DEADLINE_EXCEEDED"
    kind = "slow_body"


class TooLarge(Refusal):
    """A body, an image or a number of them above the limit."""

    status = 413
    grpc = "RESOURCE_EXHAUSTED"
    kind = "too_large"


class Unsupported(Refusal):
    """A content encoding that is not known."""

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
        """When to come again, in whole seconds."""
        return {"Retry-After": str(max(1, ceil(self.retry_after_s)))}


class Expired(Refusal):
    """Accepted, and not done within the request's time."""

    status = 504
    grpc = "DEADLINE_EXCEEDED"
    kind = "expired"
