"""How much a metric differs between two engines: accuracy image by image, latency in alternation, counted metrics exactly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from deploy.accuracy.coco import has_masks
from deploy.accuracy.judge import LabeledSplit
from deploy.accuracy.matches import Matches, match
from deploy.comparison import metrics
from deploy.comparison.bootstrap import RESAMPLES, Recomputed, fall
from deploy.comparison.interleaved import DEFAULT, MIN_BLOCKS, InterleavedProtocol, take_turns
from deploy.comparison.interval import MIN_IMAGES, Effect
from deploy.comparison.side import Side
from deploy.machine.load import Load
from deploy.prediction.predictor import SessionPredictor, Timings

_THRESHOLDS = {"map_50": slice(0, 1), "map_75": slice(5, 6)}

SWEEP_RESAMPLES = 200
"""Each recomputes mAP for every corruption and severity of two engines."""


class Incomparable(Exception):
    """The reason why two sides cannot be compared."""


@dataclass(frozen=True)
class Change:
    """How much higher the metric of `own` is than the reference's, `how` it was measured, and the machine's other `load`.

    `too_few` describes what is too little for any verdict.
    """

    effect: Effect
    own: float
    reference: float
    how: str
    load: Load | None = None
    too_few: str | None = None


@dataclass
class Comparison:
    """Two engines on the same images; matches are made once for all metrics that need them.

    Args:
        split: the labeled images of both sides' detections; None if there are none.
        images: decoded, [H, W, 3] RGB, for latency.
    """

    own: Side
    reference: Side
    split: LabeledSplit | None
    images: Callable[[], Sequence[NDArray[np.uint8]]]
    protocol: InterleavedProtocol = DEFAULT
    _matches: dict[tuple[str, ...], tuple[Matches, Matches]] = field(default_factory=dict)
    _found: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]] | None = None

    def change(self, metric: str, limit: float, *, relative: bool, falls: bool) -> Change:
        """How much the metric rose; latency is measured until it is clear whether it rose, or with `falls` fell, by more than `limit`.

        Raises:
            Incomparable: a metric is missing, or the two detect different classes.
            ArtifactError: an engine's answer is invalid.
            RuntimeUnavailable: an engine cannot run on this machine.
        """
        try:
            metrics.check(metric)
        except ValueError as error:
            raise Incomparable(str(error)) from error
        if (part := metrics.latency_part(metric)) is not None:
            return self._latency(*part, -limit if falls else limit, relative=relative)
        if metric in metrics.EXACT:
            return self._exact(metric, relative=relative)
        if metrics.is_robust(metric):
            return self._robust(metric, relative=relative)
        return self._accuracy(metric, relative=relative)

    def _exact(self, metric: str, *, relative: bool) -> Change:
        own, reference = (metrics.value(metric, side.figures) for side in (self.own, self.reference))
        if own is None or reference is None:
            lacking = self.own if own is None else self.reference
            raise Incomparable(f"{metric} of {lacking.name} is unknown")
        self._refuse_share_of_nothing(metric, reference, relative=relative)
        change = (own - reference) / (reference if relative else 1)
        return Change(Effect(change=change, low=change, high=change), own, reference, "counted")

    def _latency(self, part: str, percentile: float, limit: float, *, relative: bool) -> Change:
        value: Callable[[Timings], float] = attrgetter(f"{part}_ms")
        images = self.images()
        with self.own.open() as first, self.reference.open() as second:
            sides = SessionPredictor(first, self.own.contract), SessionPredictor(second, self.reference.contract)
            seen = take_turns(*sides, images, value=value, percentile=percentile, limit=limit, relative=relative, protocol=self.protocol)
        shown = "noise" if self.split is None else "photographs"
        needed = f"{MIN_BLOCKS} blocks and {self.protocol.least_passes(percentile)} passes for percentile {percentile:g}"
        few = f"{seen.passes} passes per engine in {seen.blocks} blocks are too few to tell; at least {needed} are needed"
        lacking = None if seen.enough else f"{few}; raise validation.latency.max_seconds"
        how = f"{seen.passes} passes per engine on {shown}, interleaved in {seen.blocks} blocks, {seen.seconds:.1f} s"
        return Change(seen.effect, seen.own_ms, seen.reference_ms, how, seen.load, lacking)

    def _refuse_share_of_nothing(self, metric: str, reference: float, *, relative: bool) -> None:
        if relative and reference == 0:
            raise Incomparable(f"{metric} of {self.reference.name} is 0, so a relative change is undefined")

    def _accuracy(self, metric: str, *, relative: bool) -> Change:
        thresholds = _THRESHOLDS.get(metric.removeprefix("mask_"), slice(None))
        own, reference = (
            Recomputed(partial(one.mean_precision, thresholds=thresholds), one.num_images, one.num_with_objects())
            for one in self._matched(metric)
        )
        return self._resampled(metric, own, reference, relative=relative)

    def _robust(self, metric: str, *, relative: bool) -> Change:
        lacking = next((side for side in (self.own, self.reference) if side.statistic is None), None)
        if lacking is not None or self.own.statistic is None or self.reference.statistic is None:
            raise Incomparable(f"{metric} of {'the other engine' if lacking is None else lacking.name} was not measured")
        own, reference = self.own.statistic(metric), self.reference.statistic(metric)
        if own.num_images != reference.num_images:
            raise Incomparable(f"{metric}: {own.num_images} images here, {reference.num_images} of {self.reference.name}")
        return self._resampled(metric, own, reference, relative=relative)

    def _resampled(self, metric: str, own: Recomputed, reference: Recomputed, *, relative: bool) -> Change:
        before, after = reference.statistic(None), own.statistic(None)
        if before is None or after is None:
            raise Incomparable(f"{metric} is undefined on this data")
        self._refuse_share_of_nothing(metric, before, relative=relative)
        resamples = SWEEP_RESAMPLES if metric in {metrics.MPC, metrics.RPC} else RESAMPLES
        lower = fall(own.statistic, reference.statistic, own.num_images, relative=relative, resamples=resamples)
        assert lower is not None, "both figures are defined"
        with_objects = f"with objects {'in the smallest group' if metric == metrics.WORST_GROUP else 'that count'}"
        how = f"{own.num_images} images"
        if own.num_with_objects < own.num_images:
            how += f", {own.num_with_objects} {with_objects}"
        return Change(lower.reversed(), after, before, how, too_few=_too_few(own, with_objects))

    def _matched(self, metric: str) -> tuple[Matches, Matches]:
        if self.split is None:
            raise Incomparable(f"{metric} requires labeled images; pass --data DIR")
        kind: Literal["bbox", "segm"] = "segm" if metric.startswith("mask_") else "bbox"
        chosen: dict[str, Any] = {"kind": kind}
        if metric.startswith(metrics.OF_CLASS):
            wanted = metric.removeprefix(metrics.OF_CLASS)
            if wanted not in self.own.contract.classes:
                raise Incomparable(f"no class '{wanted}'; choose from {', '.join(self.own.contract.classes)}")
            chosen["classes"] = (wanted,)
        elif metric.rpartition("_")[2] in {"small", "medium", "large"}:
            chosen["area"] = metric.rpartition("_")[2]
        if kind == "segm" and None in (self.own.contract.mask_frame, self.reference.contract.mask_frame):
            raise Incomparable(f"{metric} cannot be compared with a detector without masks")
        if kind == "segm" and not has_masks(self.split.truth):
            raise Incomparable(f"{metric} cannot be compared on data without masks")
        key = tuple(map(str, chosen.values()))
        if key not in self._matches:
            if self._found is None:
                self._found = self.own.detections(), self.reference.detections()
            truth = self.split.truth
            self._matches[key] = match(truth, self._found[0], **chosen), match(truth, self._found[1], **chosen)
        return self._matches[key]


def _too_few(given: Recomputed, with_objects: str) -> str | None:
    """Images without objects that count hardly move the figure, so they cannot show how much it varies."""
    if given.num_with_objects >= MIN_IMAGES:
        return None
    few, such = (given.num_images, "") if given.num_images < MIN_IMAGES else (given.num_with_objects, f" {with_objects}")
    return f"{few} image{f's{such} are' if few != 1 else f'{such} is'} too few to tell; at least {MIN_IMAGES} are needed"
