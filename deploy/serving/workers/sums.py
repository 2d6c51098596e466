"""What the workers have counted, added up; those that have ended included, so that nothing counts backwards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

_COUNTED = ("counter", "histogram")
_LEAST = ("edgedistill_ready",)


@dataclass(frozen=True)
class Counted:
    """A worker's metrics in the exposition format, and its totals for the protocol's statistics."""

    text: str = ""
    totals: tuple[float, ...] = ()


def summed_totals(figures: Sequence[Counted]) -> tuple[float, ...]:
    """The totals of all workers."""
    return tuple(sum(values) for values in zip(*(one.totals for one in figures if one.totals), strict=True))


def summed(living: Sequence[Counted], ended: Sequence[Counted]) -> str:
    """The metrics of all workers in the exposition format.

    Counters and histograms are sums; the server is ready if all workers are. Of workers that have ended only what they counted remains.
    """
    return generate_latest(_Sum(living, ended)).decode()


class _Sum:
    """What generate_latest asks of a registry."""

    def __init__(self, living: Sequence[Counted], ended: Sequence[Counted]) -> None:
        self._found: dict[str, Metric] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for figures, counts_only in ((living, False), (ended, True)):
            for one in figures:
                self._add(one.text, counts_only=counts_only)

    def collect(self) -> Iterator[Metric]:
        """The families with their sums."""
        for name, family in self._found.items():
            made = Metric(name, family.documentation, family.type)
            for (sample, labels), value in self._values[name].items():
                made.add_sample(sample, dict(labels), value)
            yield made

    def _add(self, text: str, *, counts_only: bool) -> None:
        for family in text_string_to_metric_families(text):
            if counts_only and family.type not in _COUNTED and not family.name.endswith("_created"):
                continue
            self._found.setdefault(family.name, family)
            values = self._values.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                if key not in values:
                    values[key] = sample.value
                elif family.name.endswith("_created") or family.name in _LEAST:
                    values[key] = min(values[key], sample.value)
                elif not family.name.endswith("_info"):
                    values[key] += sample.value


def merged(ended: Sequence[Counted]) -> Counted:
    """Those that have ended, as one."""
    return Counted(summed((), ended), summed_totals(ended))
