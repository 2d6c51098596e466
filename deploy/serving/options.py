"""Section `serve` of pipeline.yaml."""

from pathlib import Path

from pydantic import Field

from deploy.contract import Frozen

MIB = 1 << 20


class ServeConfig(Frozen):
    """How `edgedistill serve` listens, batches and refuses; loopback unless said otherwise."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535, description="of HTTP; 0 takes a free one")
    grpc_port: int | None = Field(default=None, ge=0, le=65535, description="of gRPC; null for none")
    name: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the model in addresses; null for the bundle's"
    )
    token_file: Path | None = Field(default=None, description="a file with the bearer token that requests must carry")
    sessions: int = Field(default=1, ge=1, le=64, description="of the engine, each on a thread of its own")
    threads: int | None = Field(default=None, ge=1, description="of the CPU for each session; null leaves it to the runtime")
    max_batch_size: int | None = Field(default=None, ge=1, le=128, description="images in one pass; null: the fastest size when warming up")
    max_queue_delay_ms: float = Field(default=0.0, ge=0, le=1000, description="how long a pass waits for more images")
    queue_size: int = Field(default=64, ge=1, le=10_000, description="requests at once; more are refused with 503")
    timeout_ms: float = Field(default=10_000, gt=0, le=600_000, description="a request's time, unless it says less itself")
    max_body_mib: float = Field(default=32.0, gt=0, le=1024, description="of a request")
    max_pixels: int = Field(default=40_000_000, ge=1, le=89_478_485, description="of an image")
    max_images: int = Field(default=16, ge=1, le=1024, description="in one request")
    drain_seconds: float = Field(default=2.0, ge=0, le=3600, description="between not ready and closing, after SIGTERM")

    @property
    def max_body_bytes(self) -> int:
        """Of a request's body."""
        return int(self.max_body_mib * MIB)
