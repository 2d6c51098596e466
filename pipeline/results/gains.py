"""The gain from a change over several paired trainings, and its confidence interval."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gain:
    """The mean of paired differences, and its confidence interval; its ends are None if there is only one pair."""

    mean: float
    low: float | None
    high: float | None
    differences: tuple[float, ...]


def paired_gain(values: Sequence[float], others: Sequence[float]) -> Gain:
    """`values` minus `others`, pair by pair, with Student's 95% interval for the mean.

    The interval assumes that the differences are roughly normal. A pair has the same seed, so the seed's luck cancels.

    Raises:
        ValueError: there are no pairs, or the numbers of values and others differ.
    """
    from scipy.stats import t  # takes a second to import

    differences = tuple(value - other for value, other in zip(values, others, strict=True))
    if not differences:
        raise ValueError("no pairs to compare")
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return Gain(mean, None, None, differences)
    half = float(t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / len(differences) ** 0.5
    return Gain(mean, mean - half, mean + half, differences)
