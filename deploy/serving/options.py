"""Section `serve` of pipeline.yaml."""

from ipaddress import ip_network
from pathlib import Path

from pydantic import Field, field_validator

from deploy.contract import Frozen

MIB = 1 << 20
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServeConfig(Frozen):
    """How `edgedistill serve` listens, batches and refuses; loopback unless `host` is set."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="HTTP port; 0 picks a free one")
    grpc_port: int | None = Field(default=None, ge=0, le=65535, description="gRPC port; null: no gRPC")
    name: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the model in URLs; null: the bundle's"
    )
    token_file: Path | None = Field(default=None, description="file whose first line is the bearer token that requests must carry")
    workers: int = Field(
        default=1, ge=1, le=64, description="number of processes behind the port, each with engine, queue and limits of its own; Linux"
    )
    sessions: int = Field(default=1, ge=1, le=64, description="number of engine sessions, each on its own thread")
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads per session; null: the runtime's choice, with several workers their part of the cores",
    )
    max_batch_size: int | None = Field(default=None, ge=1, le=128, description="maximum images per pass; null: the fastest size at warm-up")
    max_queue_delay_ms: float = Field(default=0.0, ge=0, le=1000, description="time that a pass waits for more images")
    queue_size: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="maximum number of requests in progress, all but a sixteenth of them from one address; more are refused with 503",
    )
    timeout_ms: float = Field(default=10_000, gt=0, le=600_000, description="time limit per request; a request may ask for less")
    max_body_mib: float = Field(default=32.0, gt=0, le=1024, description="maximum size of a request body")
    max_pixels: int = Field(default=40_000_000, ge=1, le=89_478_485, description="maximum number of pixels per image")
    max_images: int = Field(default=16, ge=1, le=1024, description="maximum number of images per request")
    max_connections_per_client: int | None = Field(
        default=None, ge=1, description="maximum HTTP connections from one address; null: half of all; more may only ask for health"
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="addresses or networks of proxies, whose connections belong to many clients and are not counted per client"
    )
    allowed_hosts: tuple[str, ...] | None = Field(
        default=None, description="names that the header Host may have, without port; null: on loopback its own names, elsewhere any"
    )
    drain_seconds: float = Field(default=2.0, ge=0, le=3600, description="delay between not ready and closing, after SIGTERM")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            try:
                ip_network(one, strict=False)
            except ValueError as error:
                raise ValueError(f"{one!r} is not an IP address or a network, such as 10.0.0.0/8") from error
        return given

    @property
    def max_body_bytes(self) -> int:
        """Maximum size of a request's body."""
        return int(self.max_body_mib * MIB)
