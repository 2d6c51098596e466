"""What a change gains over several paired trainings, and how sure that is."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gain:
    """The mean of paired differences, and its confidence interval; null ends where there is but one pair."""

    mean: float
    low: float | None
    high: float | None
    differences: tuple[float, ...]


def paired_gain(values: Sequence[float], others: Sequence[float], confidence: float = 0.95) -> Gain:
    """`values` less `others`, pair by pair, with Student's interval for the mean.

    The interval holds where differences are about normal; pairs are of the same seed, whose luck cancels.

    Raises:
        ValueError: no pairs, or not as many values as others.
    """
    from scipy.stats import t  # takes a second

    differences = tuple(value - other for value, other in zip(values, others, strict=True))
    if not differences:
        raise ValueError("no pairs to compare")
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return Gain(mean, None, None, differences)
    half = float(t.ppf((1 + confidence) / 2, len(differences) - 1)) * statistics.stdev(differences) / len(differences) ** 0.5
    return Gain(mean, mean - half, mean + half, differences)
