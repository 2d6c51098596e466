"""Verdicts: an engine's figures against the gates, and the program's exit code."""

import math
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Literal

from deploy import plugins
from deploy.bundles.manifest import Verdict
from deploy.comparison import limits, metrics
from deploy.comparison.compare import Change, Comparison, Incomparable
from deploy.comparison.interleaved import InterleavedProtocol
from deploy.comparison.metrics import Figures
from deploy.comparison.side import Side
from deploy.contract import Accuracy
from deploy.errors import EXIT_FAIL, EXIT_INCOMPARABLE, EXIT_INCONCLUSIVE, BuildError, EdgedistillError
from stages.artifacts import DETECTIONS, Dataset, Engine, Measurement, OnnxModel, Report, read_json
from stages.config import GateConfig, ValidationConfig, Versus
from stages.measurement import latency_images
from stages.measurement.splits import labeled_split

VerdictKind = Literal["pass", "fail", "inconclusive", "unmeasured", "incomparable"]


class Judge:
    """One engine's verdicts; `others` has, by the gates' `versus`, what it is compared with or the reason why there is nothing.

    `baseline` is what the baseline is called in the limits of gates, if the run has several.
    """

    def __init__(
        self,
        own: Side,
        others: Mapping[str, Side | str],
        dataset: Dataset | None,
        validation: ValidationConfig,
        baseline: str = "baseline",
    ) -> None:
        self.own = own
        self._baseline = baseline
        self._others = others
        self._split = labeled_split(dataset, validation.split) if dataset is not None else None
        self._max_seconds = validation.latency.max_seconds
        self._comparisons: dict[Versus, Comparison] = {}

    def verdict(self, one: GateConfig) -> Verdict:
        """The verdict of a gate on this engine."""
        words = limit(one)
        name = one.name or f"{one.metric} {words} on {self.own.name}"
        if one.other == "baseline":
            words = f"{words.removesuffix('baseline')}{self._baseline}"
        blank = Verdict(name=name, target=self.own.name, metric=one.metric, verdict="unmeasured", measured=None, limit=words)
        if self.own.why is not None:
            return blank.model_copy(update={"why": self.own.why})
        if one.other is not None:
            return self._change(one, one.other, blank)
        measured, why = judged_number(self.own.figures, one.metric)
        kind: VerdictKind = "incomparable" if measured is None else "pass" if _within(measured, one) else "fail"
        return blank.model_copy(update={"verdict": kind, "measured": measured, "why": why})

    def _change(self, one: GateConfig, versus: Versus, blank: Verdict) -> Verdict:
        (bound, relative), falls = one.limit, one.max_drop is not None
        try:
            change = self._comparison(versus).change(one.metric, bound, relative=relative, falls=falls)
        except (Incomparable, EdgedistillError) as error:
            return blank.model_copy(update={"verdict": "incomparable", "why": str(error)})
        effect = change.effect.reversed() if falls else change.effect
        clear: VerdictKind = effect.verdict(bound) if change.too_few is None else "inconclusive"
        kind = one.on_noise if clear == "inconclusive" else clear
        found = {"effect": effect, "reference": change.reference, "how": change.how, "load": change.load}
        why = _why(one, change, bound) if clear == "inconclusive" else None
        return blank.model_copy(update={"verdict": kind, "measured": change.own, "why": why, **found})

    def _comparison(self, versus: Versus) -> Comparison:
        if versus not in self._comparisons:
            other = self._others.get(versus, f"there is no {versus} to compare with")
            if isinstance(other, str):
                raise Incomparable(other)
            if other.why is not None:
                raise Incomparable(f"{versus}: {other.why}")
            refuse_misfits(self.own, other)
            contract = self.own.contract.preprocessing
            images = partial(latency_images.of, self._split.images if self._split is not None else (), contract)
            protocol = InterleavedProtocol(max_seconds=self._max_seconds)
            self._comparisons[versus] = Comparison(self.own, other, self._split, images, protocol)
        return self._comparisons[versus]


def refuse_misfits(own: Side, other: Side) -> None:
    """Refuse to compare figures of different tasks or on different images.

    Raises:
        Incomparable: the two detect different classes, or were judged on different data.
    """
    if own.contract.classes != other.contract.classes:
        raise Incomparable(f"{own.name} and {other.name} detect different classes")
    if own.data is None or other.data is None or own.data == other.data:
        return
    counts = f"{other.data[1]} images then, {own.data[1]} now" if own.data[1] != other.data[1] else "as many images, with different content"
    raise Incomparable(f"{other.name} was judged on different data ({counts}); save a new reference on today's data")


def exit_code(
    verdicts: Iterable[Verdict], gates: Iterable[GateConfig], *, required: Collection[str] = (), unmeasured: Collection[str] = ()
) -> int:
    """The program's exit code, given the verdicts on all targets.

    10 if a gate failed; otherwise 5 if a `required` target is `unmeasured`; otherwise 12 if a gate had nothing to compare or names
    an unmeasured target, or if there are gates and none was measured; otherwise 11 if a gate is inconclusive; otherwise 0.

    Args:
        required, unmeasured: names of targets.
    """
    kinds = {verdict.verdict for verdict in verdicts}
    if "fail" in kinds:
        return EXIT_FAIL
    if set(required) & set(unmeasured):
        return BuildError.exit_code
    if "incomparable" in kinds or kinds == {"unmeasured"} or {one.target for one in gates} & set(unmeasured):
        return EXIT_INCOMPARABLE
    return EXIT_INCONCLUSIVE if "inconclusive" in kinds else 0


def limit(one: GateConfig) -> str:
    """The gate's limit in words, '>= 0.3', '<= 20', 'falls <= 0.01 from reference'; a number equal to the limit passes."""
    if one.is_change:
        given = one.max_increase if one.max_drop is None else one.max_drop
        return f"{'rises' if one.max_drop is None else 'falls'} <= {given if isinstance(given, str) else f'{given:.12g}'} from {one.other}"
    return limits.of_number(one.min, one.max)


def judged_number(figures: Figures, metric: str) -> tuple[float | None, str | None]:
    """The number, or None and why there is none to judge."""
    try:
        found = metrics.value(metric, figures)
    except ValueError as error:
        return None, str(error)
    if found is None or not math.isfinite(found):
        if metrics.FROM.get(metric, metric) not in (metric, *figures.maps):
            return None, f"{metric}: there is no {metrics.FROM[metric].replace('_', ' ')} network next to this engine"
        if metric in metrics.SPEEDUPS:
            return None, f"{metric}: no {metrics.SPEEDUPS[metric]} was measured together with this engine"
        if metrics.is_robust(metric):
            return None, f"{metric} was not measured, or is undefined on this data; see the section robustness"
        without_data = metrics.is_accuracy(metric) and figures.accuracy is None
        return None, f"{metric} was not measured, without data" if without_data else f"{metric} is undefined on this data"
    return found, None


def _within(measured: float, one: GateConfig) -> bool:
    return (one.min is None or measured >= one.min) and (one.max is None or measured <= one.max)


def _why(one: GateConfig, change: Change, bound: float) -> str:
    """What would decide, if the confidence interval straddles the limit."""
    if change.too_few is not None:
        return change.too_few
    needed = change.effect.needed(bound if one.max_drop is None else -bound)
    unit = "blocks" if metrics.latency_part(one.metric) is not None else "images"
    if needed is None:
        return "the change is at the limit itself, so no number of measurements would decide"
    more = "; raise validation.latency.max_seconds" if unit == "blocks" else ""
    return f"too few {unit} to tell: {change.effect.num} measured, about {needed} would suffice{more}"


def side_of(
    engine: Engine,
    report: Report,
    latency: tuple[Measurement, str],
    model: OnnxModel,
    validation: ValidationConfig,
    networks: Mapping[str, Accuracy],
) -> Side:
    """An engine of the store with its measurements.

    Args:
        latency: the measurement, and the engine's name in it.
        networks: what teacher, baselines and student reach, for the figures that are differences from them.
    """
    timed, name = latency
    built, measured = engine.facts, report.facts
    figures = Figures(
        measured.accuracy,
        timed.facts.latency(name),
        measured.bytes,
        built.cost,
        model.facts.network,
        {name: accuracy.map for name, accuracy in networks.items()},
        timed.facts.speedups(name),
        {name: None if accuracy.segmentation is None else accuracy.segmentation.map for name, accuracy in networks.items()},
    )
    runtime = plugins.load("deploy.runtimes", built.runtime)
    file = engine.root / (built.file or "")
    opened = partial(runtime.open, file, threads=validation.latency.threads, options=built.options)
    detections = partial(read_json, report.root / DETECTIONS)
    return Side(built.target, figures, built.contract, opened, detections, measured.why, measured.data)
