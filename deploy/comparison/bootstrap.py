"""Uncertainty of a comparison: paired bootstrap over images or over blocks of passes.

Efron & Tibshirani, "An Introduction to the Bootstrap", 1993; percentile intervals.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.accuracy.matches import Matches
from deploy.comparison.interval import ERROR_RATE, MIN_IMAGES, OUTSIDE, Effect

Floats = NDArray[np.float64]
Statistic = Callable[[Floats | None], float | None]
"""A figure for any weights of the images [I], once each by default; None if it is undefined."""


RESAMPLES = 500
BLOCK_RESAMPLES = 2000
DRAWN_BYTES = 2**25
"""So much of drawn blocks is in memory at the same time, or one draw."""


class Recomputed(NamedTuple):
    """A figure for any weights of the images, their number, and how many of them have objects that count."""

    statistic: Statistic
    num_images: int
    num_with_objects: int


def lead(own: Matches, reference: Matches) -> Effect | None:
    """How much higher the mAP of `own` is, with its 95% interval; None if fewer than MIN_IMAGES images have objects."""
    fallen = drop(own, reference, slice(None), relative=False, error_rate=OUTSIDE) if own.num_with_objects() >= MIN_IMAGES else None
    return None if fallen is None else fallen.reversed()


def drop(
    own: Matches, reference: Matches, thresholds: slice, *, relative: bool, error_rate: float = ERROR_RATE, seed: int = 0
) -> Effect | None:
    """How much lower the mAP of `own` is; images are drawn with replacement, the same ones for both sides. None if there is no object.

    Two networks with the same detections have an interval of zero width. `error_rate` is the error rate on each side of the interval.
    """
    assert own.num_images == reference.num_images
    now, before = (partial(side.mean_precision, thresholds=thresholds) for side in (own, reference))
    return fall(now, before, own.num_images, relative=relative, error_rate=error_rate, seed=seed)


def fall(
    own: Statistic,
    reference: Statistic,
    num_images: int,
    *,
    relative: bool,
    error_rate: float = ERROR_RATE,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Effect | None:
    """How much lower any figure of `own` is, with images drawn as for `drop`. None if either figure is undefined."""

    def change(weights: Floats | None) -> float | None:
        before, after = (side(weights) for side in (reference, own))
        if before is None or after is None or (relative and before == 0):
            return None
        return (before - after) / (before if relative else 1.0)

    point = change(None)
    if point is None:
        return None
    generator = np.random.default_rng(seed)
    even = np.full(num_images, 1 / num_images)
    drawn = (change(generator.multinomial(num_images, even).astype(np.float64)) for _ in range(resamples))
    values = np.array([value for value in drawn if value is not None])
    low, high = np.quantile(values, (error_rate, 1 - error_rate)).tolist()
    return Effect(change=point, low=min(low, point), high=max(high, point), num=num_images)


def blocks(
    own: Floats, reference: Floats, statistic: Callable[[Floats], Floats], *, relative: bool, error_rate: float = ERROR_RATE, seed: int = 0
) -> Effect:
    """How much larger the statistic of `own` is; blocks are drawn with replacement, the same ones for both sides.

    Args:
        own, reference: [blocks, passes per block], measured alternately.
        statistic: reduces values [..., passes] over the last axis.
        error_rate: error rate on each side of the interval; a caller that looks several times divides it by the number of looks.
    """
    count = len(own)

    def change(rows: NDArray[np.intp]) -> Floats:
        after, before = (statistic(side[rows].reshape(*rows.shape[:-1], -1)) for side in (own, reference))
        return after / before - 1 if relative else after - before

    point = float(change(np.arange(count)))
    generator, together = np.random.default_rng(seed), max(1, DRAWN_BYTES // own.nbytes)
    starts = range(0, BLOCK_RESAMPLES, together)
    values = np.concatenate([change(generator.integers(0, count, (min(together, BLOCK_RESAMPLES - at), count))) for at in starts])
    low, high = np.quantile(values, (error_rate, 1 - error_rate)).tolist()
    return Effect(change=point, low=min(low, point), high=max(high, point), num=count)
