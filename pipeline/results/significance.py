"""Which of several methods differ, from paired trainings: t tests, corrected for their number, and ranks that say how sure they are."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

LEVEL = 0.05
"""A difference is told from 0 if its corrected p value is below this."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Rank:
    """The best and the worst place that a method may have: 1 plus those told to be better, and all less those told to be worse."""

    best: int
    worst: int

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best} to {self.worst}"


def paired_p(values: Sequence[float], others: Sequence[float]) -> float | None:
    """The two-sided p value of Student's t test for paired values; None for a single pair.

    Pairs that all differ alike have p 0, equal ones p 1.
    """
    from scipy.stats import t  # takes a second to import

    differences = [value - other for value, other in zip(values, others, strict=True)]
    if len(differences) < 2:
        return None
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / spread * math.sqrt(len(differences)), len(differences) - 1))


def holm(found: Mapping[K, float | None]) -> dict[K, float | None]:
    """p values corrected for their number by Holm's step-down procedure; those that are None do not count.

    S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    known = sorted((p, index, key) for index, (key, p) in enumerate(found.items()) if p is not None)
    corrected: dict[K, float | None] = dict.fromkeys(found)
    largest = 0.0
    for place, (p, _, key) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - place)))
        corrected[key] = largest
    return corrected


def pairwise(maps: Mapping[str, Sequence[float]]) -> dict[tuple[str, str], float | None]:
    """The corrected p value of each pair of methods."""
    return holm({(one, other): paired_p(maps[one], maps[other]) for one, other in combinations(maps, 2)})


def ranks(maps: Mapping[str, Sequence[float]]) -> dict[str, Rank]:
    """The rank of each method by its mean, as far as the differences between pairs are told."""
    means = {name: statistics.fmean(values) for name, values in maps.items()}
    better, worse = dict.fromkeys(maps, 0), dict.fromkeys(maps, 0)
    for (one, other), p in pairwise(maps).items():
        if p is not None and p < LEVEL:
            ahead, behind = (one, other) if means[one] > means[other] else (other, one)
            better[behind] += 1
            worse[ahead] += 1
    return {name: Rank(1 + better[name], len(maps) - worse[name]) for name in maps}
