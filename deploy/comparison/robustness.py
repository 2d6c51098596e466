"""Accuracy away from the judged split as it is: on other splits, in groups of images, on corrupted images.

mPC is the mean of mAP over all corruptions and severities, rPC its ratio to the mAP of the same images as they are: Michaelis et al.,
"Benchmarking Robustness in Object Detection", 2019, https://arxiv.org/abs/1907.07484. mAP is COCO's, as in their tables on COCO.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from deploy.accuracy.conditions import Condition, Corruptions
from deploy.accuracy.matches import Matches, match
from deploy.comparison import metrics
from deploy.comparison.bootstrap import Recomputed
from deploy.contract import Frozen

Floats = NDArray[np.float64]


class OnSplit(Frozen):
    """mAP on all images of a split; null if it has no objects."""

    num_images: int
    map: float | None
    map_50: float | None


class InGroup(Frozen):
    """mAP in a group of images, null if it has no objects; `counts` is false if the images are too few for it to be the worst group."""

    num_images: int
    map: float | None
    counts: bool


class SweepFigures(Frozen):
    """mAP by corruption and severity; `clean` is the mAP of the same images as they are."""

    mode: Corruptions
    num_images: int
    clean: float | None
    mpc: float | None
    rpc: float | None
    maps: dict[str, dict[int, float | None]]


class RobustnessFigures(Frozen):
    """One engine's figures; what was not asked for is empty."""

    splits: dict[str, OnSplit] = Field(default_factory=dict)
    groups: dict[str, dict[str, InGroup]] = Field(default_factory=dict)
    sweep: SweepFigures | None = None

    @property
    def worst(self) -> tuple[str, InGroup] | None:
        """The group with the lowest mAP of those that count, as "grouping: group"; None if none does."""
        every = [(f"{title}: {name}", one) for title, groups in self.groups.items() for name, one in groups.items()]
        defined = [(one.map, name, one) for name, one in every if one.counts and one.map is not None]
        return min(defined, key=lambda row: row[:2])[1:] if defined else None

    def values(self) -> dict[str, float | None]:
        """Every figure that gates can limit, by the metric's name."""
        found = {f"{metrics.ON_SPLIT}{name}": one.map for name, one in self.splits.items()}
        if self.groups:
            found[metrics.WORST_GROUP] = None if self.worst is None else self.worst[1].map
        if self.sweep is not None:
            found |= {metrics.MPC: self.sweep.mpc, metrics.RPC: self.sweep.rpc}
        return found


@dataclass(frozen=True)
class ImageGroup:
    """A group of the judged split's images, by their ids, or with `area`, all objects of a size."""

    grouping: str
    name: str
    images: frozenset[int]
    area: str = "all"


@dataclass(frozen=True)
class Findings:
    """What one engine found under each condition, and the ground truth: everything that a metric can be recomputed from.

    Args:
        split: the judged split.
        groups: those that count.
        sweep: the corruptions and severities.
        truth: ground truth of a condition's images.
        found: the engine's detections in them.
        plain: detections in the sweep's images as they are.
    """

    split: str
    groups: Sequence[ImageGroup]
    sweep: Sequence[Condition]
    truth: Callable[[Condition], Mapping[str, Any]]
    found: Callable[[Condition], Sequence[Mapping[str, Any]]]
    plain: Callable[[], Sequence[Mapping[str, Any]]]
    _matched: dict[tuple[Condition, str], Matches] = field(default_factory=dict)

    def statistic(self, metric: str) -> Recomputed:
        """A metric for any weights of the images; of the worst group, the smallest one with objects decides how many have some."""
        if metric.startswith(metrics.ON_SPLIT):
            matches = self.matches(Condition(metric.removeprefix(metrics.ON_SPLIT)))
            return Recomputed(matches.mean_precision, matches.num_images, matches.num_with_objects())
        if metric == metrics.WORST_GROUP:
            parts = [self.group(one) for one in self.groups]
            smallest = min((count for one, inside in parts if (count := one.num_with_objects(inside))), default=0)
            return Recomputed(lambda weights: lowest(parts, weights), self.matches(Condition(self.split)).num_images, smallest)
        corrupted = [self.matches(one) for one in self.sweep]
        counts = corrupted[0].num_images, corrupted[0].num_with_objects()
        if metric == metrics.MPC:
            return Recomputed(lambda weights: mean(corrupted, weights), *counts)
        clean = match(self.truth(self.sweep[0]), self.plain())
        return Recomputed(lambda weights: ratio(mean(corrupted, weights), clean.mean_precision(weights)), *counts)

    def matches(self, condition: Condition, area: str = "all") -> Matches:
        """The matches under a condition, made once."""
        if (condition, area) not in self._matched:
            self._matched[condition, area] = match(self.truth(condition), self.found(condition), area=area)
        return self._matched[condition, area]

    def group(self, one: ImageGroup) -> tuple[Matches, Floats]:
        """The judged split's matches, and 1 for each image of a group, 0 for the others."""
        here = Condition(self.split)
        ids = sorted(image["id"] for image in self.truth(here)["images"])
        return self.matches(here, one.area), np.array([float(number in one.images) for number in ids])


def mean(matches: Sequence[Matches], weights: Floats | None = None) -> float | None:
    """The mean of mAP over conditions; None if it is undefined under any."""
    maps = [one.mean_precision(weights) for one in matches]
    defined = [value for value in maps if value is not None]
    return float(np.mean(defined)) if maps and len(defined) == len(maps) else None


def ratio(part: float | None, whole: float | None) -> float | None:
    """part / whole; None if either is None, or the whole is 0."""
    return None if part is None or not whole else part / whole


def lowest(parts: Sequence[tuple[Matches, Floats]], weights: Floats | None) -> float | None:
    """The lowest mAP of any group; groups without objects do not count."""
    return min(_defined(parts, weights), default=None)


def _defined(parts: Sequence[tuple[Matches, Floats]], weights: Floats | None) -> Iterator[float]:
    for matches, inside in parts:
        value = matches.mean_precision(inside if weights is None else inside * weights)
        if value is not None:
            yield value
