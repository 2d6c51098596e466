"""Which precision was chosen, and from which offers."""

from deploy.contract import Frozen
from deploy.precision import Precision


class Measured(Frozen):
    """An offer's mAP, 0 to 1, and its median end-to-end milliseconds; null, with a `why`, if it is unusable.

    The mAP is also null if the images have no objects.
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
    """The chosen precision and all offers; `limit` is the largest allowed drop of mAP from fp32, null for any."""

    precision: Precision
    limit: float | None
    offers: tuple[Measured, ...]

    def __str__(self) -> str:
        """In one sentence."""
        within = "" if self.limit is None else f" within {self.limit:g} of fp32's mAP"
        return f"{self.precision} is the fastest{within}: {'; '.join(map(str, self.offers))}"
