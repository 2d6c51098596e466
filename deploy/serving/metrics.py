"""The metrics that Prometheus scrapes."""

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from deploy.bundles.bundle import Bundle
from deploy.serving.batcher import Pass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter("edgedistill_requests", "Requests answered", ["endpoint", "code"], registry=registry)
        self._seconds = Histogram(
            "edgedistill_request_seconds", "Time from arrival to answer", ["endpoint"], buckets=_SECONDS, registry=registry
        )
        self._errors = Counter("edgedistill_errors", "Requests refused or failed, by kind", ["kind"], registry=registry)
        self._queue = Histogram("edgedistill_queue_seconds", "Time an image waits for the engine", buckets=_SECONDS, registry=registry)
        self._compute = Histogram("edgedistill_compute_seconds", "Duration of one engine pass", buckets=_SECONDS, registry=registry)
        self._batch = Histogram("edgedistill_batch_size", "Images per pass", buckets=_SIZES, registry=registry)
        self._pending = Gauge("edgedistill_pending_requests", "Requests accepted but not yet answered", registry=registry)
        self._ready = Gauge("edgedistill_ready", "1 if the engine is warm and the server is not draining", registry=registry)
        self._swaps = Counter("edgedistill_swaps", "Bundles swapped in or refused", ["result"], registry=registry)
        self._engine = Info("edgedistill_engine", "The served bundle", registry=registry)
        self.total = Totals()

    def request(self, endpoint: str, code: str, seconds: float) -> None:
        """Count one answer, with its HTTP status or gRPC code."""
        self._requests.labels(endpoint, code).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def error(self, kind: str) -> None:
        """Count one refusal or failure."""
        self._errors.labels(kind).inc()

    def engine_pass(self, one: Pass) -> None:
        """Count one pass through the engine."""
        self._compute.observe(one.compute_s)
        self._batch.observe(one.num_images)
        for seconds in one.queue_s:
            self._queue.observe(seconds)
        self.total.add(one)

    def swap(self, result: str) -> None:
        """Count a new bundle, served or refused."""
        self._swaps.labels(result).inc()

    def serves(self, bundle: Bundle, version: int, *, gated: bool) -> None:
        """Name the bundle and the machine that its engine is for."""
        manifest = bundle.manifest
        about = {"name": manifest.name, "version": str(version), "runtime": manifest.runtime, "precision": manifest.precision}
        engine = {"sha256": manifest.files[manifest.engine]} if manifest.engine else {}
        self._engine.info({**about, "gated": str(gated).lower(), **engine, **_labels(manifest.fingerprint)})

    def text(self, *, pending: int, ready: bool) -> bytes:
        """The exposition format."""
        self._pending.set(pending)
        self._ready.set(ready)
        return generate_latest(self.registry)


class Totals:
    """Sums over all passes, for the protocol's statistics."""

    def __init__(self) -> None:
        self.passes = self.images = self.jobs = 0
        self.compute_s = self.queue_s = 0.0

    @classmethod
    def of(cls, values: Sequence[float]) -> "Totals":
        """Totals from their `values`."""
        made = cls()
        made.passes, made.images, made.jobs = (int(value) for value in values[:3])
        made.compute_s, made.queue_s = values[3:]
        return made

    @property
    def values(self) -> tuple[float, ...]:
        """As plain numbers."""
        return self.passes, self.images, self.jobs, self.compute_s, self.queue_s

    def add(self, one: Pass) -> None:
        """Add one pass; threads may add at the same time, so a sum may miss a pass, as a sample would."""
        self.passes += 1
        self.images += one.num_images
        self.jobs += len(one.queue_s)
        self.compute_s += one.compute_s * len(one.queue_s)
        self.queue_s += sum(one.queue_s)


def _labels(fingerprint: Mapping[str, str]) -> dict[str, str]:
    return {"".join(c if c.isalnum() else "_" for c in f"fingerprint_{key}"): value for key, value in fingerprint.items()}
