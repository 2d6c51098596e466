"""Which precision was taken, and of which."""

from deploy.contract import Frozen
from deploy.precision import Precision


class Measured(Frozen):
    """An offer's mAP, 0 to 1, and the median of its milliseconds end to end; null, with a `why`, where it is no use.

    The mAP of one whose images have no objects is null, too.
    """

    precision: Precision
    map: float | None = None
    p50_ms: float | None = None
    why: str | None = None

    def __str__(self) -> str:
        """In a few words."""
        if self.p50_ms is None:
            return f"{self.precision}: {self.why}"
        accuracy = "" if self.map is None else f"mAP {self.map:.4f}, "
        return f"{self.precision} {accuracy}{self.p50_ms:.2f} ms"


class Choice(Frozen):
    """Which precision was taken, and of which; `limit` is the largest drop from fp32, null for any."""

    precision: Precision
    limit: float | None
    offers: tuple[Measured, ...]

    def __str__(self) -> str:
        """In one sentence."""
        within = "" if self.limit is None else f" within {self.limit:g} of fp32's mAP"
        return f"{self.precision} is the fastest{within}: {'; '.join(map(str, self.offers))}"
