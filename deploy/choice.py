"""Which precision was taken, and of which."""

from deploy.contract import Frozen
from deploy.runtimes import Precision


class Measured(Frozen):
    """An offer's mAP, 0 to 1, and the median of its milliseconds end to end; null, with a `why`, where it could not be built."""

    precision: Precision
    map: float | None = None
    p50_ms: float | None = None
    why: str | None = None


class Choice(Frozen):
    """Which precision was taken, and of which; `limit` is the largest drop from fp32, null for any."""

    precision: Precision
    limit: float | None
    offers: tuple[Measured, ...]
