"""The fastest of several engines that are accurate enough, measured together on this machine.

A faster median is not enough: engines that no interval tells apart from the fastest are equal, and the first of them is taken.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from deploy import plugins
from deploy.accuracy.judge import defined
from deploy.contract import ModelContract
from deploy.engines.choice import Choice, Measured, pair
from deploy.engines.maps import EngineMaps
from deploy.engines.request import BuildRequest
from deploy.errors import ArtifactError, BuildError
from deploy.latency.measure import Image, Latencies, LatencyProtocol, measure_together
from deploy.precision import Precision
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import PACKAGE

PROTOCOL = LatencyProtocol(warmup=3, min_passes=8, min_seconds=0.3, budget_seconds=10)
"""Shorter than the measurement of finished engines: it only has to tell the candidates apart."""


class Offer(NamedTuple):
    """A candidate: the request to its runtime, and its engine or why it could not be built."""

    request: BuildRequest
    precision: Precision
    file: Path | None
    why: str | None

    @property
    def pair(self) -> str:
        """Runtime and precision."""
        return pair(self.request.runtime, self.precision)


class Rules(NamedTuple):
    """The float graph's mAP, and the largest allowed drop from it, null for any; both null without labeled objects."""

    float_map: float | None
    limit: float | None

    def drop(self, found: float | None) -> float | None:
        """How much mAP is lost."""
        return None if self.float_map is None or found is None else self.float_map - found

    def why_not(self, found: float | None) -> str | None:
        """Why an engine with this mAP is not admitted; None if it is.

        Raises:
            DataError: there is a limit, and mAP is undefined.
        """
        if self.limit is None:
            return None
        lost = defined(self.float_map, self.limit) - defined(found, self.limit)
        return f"it loses {lost:.4f} mAP, allowed: {self.limit:g}" if lost > self.limit else None


def choose(offers: Sequence[Offer], rules: Rules, maps: EngineMaps | None, contract: ModelContract, images: Sequence[Image]) -> Choice:
    """Judge all engines, time those with valid answers together, and take the fastest that is admitted.

    Args:
        offers: the preferred one first.
        maps: None without labeled images, if there is no limit.
        images: decoded, to time the engines on.

    Raises:
        BuildError: no engine is left; the message has every reason.
        DataError: mAP is undefined, and there is a limit.
    """
    found: dict[str, float | None] = {}
    reasons = {offer.pair: offer.why for offer in offers}
    opened: dict[str, SessionPredictor] = {}
    with ExitStack() as stack:
        for offer in offers:
            if offer.file is None:
                continue
            try:
                found[offer.pair] = maps.of(offer.file, offer.request, f"auto: {offer.pair}") if maps is not None else None
                predictor = _opened(offer, contract, stack)
                predictor.detect(images[0])
            except (ArtifactError, BuildError) as error:
                reasons[offer.pair] = str(error)
            else:
                opened[offer.pair] = predictor
                reasons[offer.pair] = rules.why_not(found[offer.pair])
        admitted = [name for name in opened if reasons[name] is None]
        if not admitted:
            raise BuildError(none_left(reasons))
        timed = measure_together(opened, images, PROTOCOL)
    return _choice(offers, rules, found, reasons, timed, pick(admitted, timed))


def none_left(reasons: Mapping[str, str | None]) -> str:
    """One line with every candidate's reason."""
    return f"no engine can be chosen: {'; '.join(f'{name}: {why}' for name, why in reasons.items())}"


def pick(admitted: Sequence[str], timed: Latencies) -> str:
    """The first engine that is as fast as the fastest, as far as the intervals tell."""
    first = admitted[0]
    fastest = min(admitted, key=lambda name: 1.0 if name == first else timed.ratios[name][first].ratio)
    return next(name for name in admitted if name == fastest or timed.ratios[name][fastest].low <= 1)


def _opened(offer: Offer, contract: ModelContract, stack: ExitStack) -> SessionPredictor:
    runtime, request = plugins.load(PACKAGE, offer.request.runtime), offer.request
    return SessionPredictor(stack.enter_context(runtime.open(offer.file, threads=request.threads, options=request.options)), contract)


def _choice(
    offers: Sequence[Offer],
    rules: Rules,
    found: Mapping[str, float | None],
    reasons: Mapping[str, str | None],
    timed: Latencies,
    chosen: str,
) -> Choice:
    measured = tuple(
        Measured(
            runtime=offer.request.runtime,
            precision=offer.precision,
            map=found.get(offer.pair),
            drop=rules.drop(found.get(offer.pair)),
            p50_ms=timed.latencies[offer.pair].end_to_end.p50 if offer.pair in timed.latencies else None,
            ratio=timed.ratios.get(offer.pair, {}).get(chosen),
            why=reasons[offer.pair],
        )
        for offer in offers
    )
    winner = next(offer for offer in offers if offer.pair == chosen)
    return Choice(
        runtime=winner.request.runtime,
        precision=winner.precision,
        limit=rules.limit,
        float_map=rules.float_map,
        offers=measured,
        warning=timed.warning(),
    )
