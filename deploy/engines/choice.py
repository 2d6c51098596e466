"""Which runtime and precision were chosen, and from which candidates."""

from collections.abc import Iterable
from typing import Any

from pydantic import Field

from deploy.contract import Frozen, Ratio
from deploy.precision import Precision


class Measured(Frozen):
    """A candidate: mAP, 0 to 1, its drop from the float graph's, and end-to-end latency.

    `ratio` is how many times as long it takes as the chosen one, null for that one. `why` is the reason why it was not admitted, null
    if it was. Figures are null if the engine could not be built or its answer is invalid; mAP also without labeled objects. Bundles of
    earlier versions have no `runtime`, `drop` and `ratio`.
    """

    runtime: str | None = None
    precision: Precision
    map: float | None = None
    drop: float | None = None
    p50_ms: float | None = None
    ratio: Ratio | None = None
    why: str | None = None

    @property
    def pair(self) -> str:
        """Runtime and precision."""
        return pair(self.runtime, self.precision)

    def __str__(self) -> str:
        """In a few words."""
        figures = [f"mAP {self.map:.4f}"] if self.map is not None else []
        figures += [f"{self.p50_ms:.2f} ms"] if self.p50_ms is not None else []
        return f"{self.pair} {', '.join([*figures, *([f'left out: {self.why}'] if self.why else [])])}"


class Choice(Frozen):
    """The chosen runtime and precision and all candidates, in the order in which they are preferred if none is measurably faster.

    `limit` is the largest allowed drop of mAP from the float graph, null for any; `float_map` is that graph's. `left_out` has the
    runtimes that cannot run on this machine, with the reason. `warning` is what disturbed the measurement.
    """

    runtime: str | None = None
    precision: Precision
    limit: float | None
    float_map: float | None = None
    offers: tuple[Measured, ...]
    left_out: dict[str, str] = Field(default_factory=dict)
    warning: str | None = None

    @property
    def pair(self) -> str:
        """Runtime and precision."""
        return pair(self.runtime, self.precision)

    def verdict(self, offer: Measured) -> str:
        """What became of a candidate, in one or two words."""
        if offer.why is not None:
            return "left out"
        if offer.pair == self.pair:
            return "chosen"
        return "slower" if offer.ratio is not None and offer.ratio.low > 1 else "tie"

    def figures(self) -> dict[str, Any]:
        """As plain values, with the verdict on each candidate."""
        offers = [{"pair": one.pair, "verdict": self.verdict(one), **one.model_dump(mode="json")} for one in self.offers]
        return {"pair": self.pair, **self.model_dump(mode="json"), "offers": offers}

    def __str__(self) -> str:
        """In one sentence."""
        within = "" if self.limit is None else f" within {self.limit:g} of fp32's mAP"
        seen = [str(one) for one in self.offers if one.p50_ms is not None or one.map is not None or one.why is None]
        unseen = left_out((one.pair, one.why) for one in self.offers if one.p50_ms is None and one.map is None)
        return f"{self.pair} was chosen; no other{within} is measurably faster: {'; '.join([*seen, *unseen])}"


def pair(runtime: str | None, precision: str) -> str:
    """A runtime, if it is known, and a precision."""
    return f"{runtime} {precision}" if runtime else precision


def left_out(reasons: Iterable[tuple[str, str | None]]) -> list[str]:
    """A line for each reason, with all that were left out for it; None is no reason."""
    named: dict[str, list[str]] = {}
    for name, why in reasons:
        if why is not None:
            named.setdefault(why, []).append(name)
    return [f"{_several(names)} left out: {why}" for why, names in named.items()]


def _several(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last} were" if others else f"{last} was"
