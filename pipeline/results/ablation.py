"""What each loss gains over several seeds, as a value and a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.results.gain_lines import LEGEND
from pipeline.results.gains import Gain, paired_gain
from pipeline.results.summary import difference, gap_closed
from pipeline.results.table import UNDEFINED, grid, number

BASELINE = "baseline"
TOGETHER = "all losses"
HEADER = ("network", "mean map", "gain, points", "95% interval", "gap closed")
MASK_HEADER = ("network", "mean mask_map", *HEADER[2:])


@dataclass(frozen=True)
class Ablation:
    """mAP of the teacher, and of each variant at each seed; `gains` has every variant except the baseline.

    teacher: None where it has no masks and `masks` counts those. masks: the same by the overlap of masks; None for students without.
    """

    name: str
    split: str
    num_images: int
    seeds: tuple[int, ...]
    teacher: float | None
    maps: Mapping[str, tuple[float, ...]]
    gains: Mapping[str, Gain]
    masks: "Ablation | None" = None

    def closed(self, variant: str) -> float | None:
        """The share of the gap between baseline and teacher that the variant closes, from mean mAPs; None unless the teacher leads."""
        means = {name: sum(values) / len(values) for name, values in self.maps.items()}
        return gap_closed(self.teacher, means[BASELINE], means[variant])


def ablation_of(judged: tuple[str, str, int, tuple[int, ...]], teacher: float | None, maps: Mapping[str, Sequence[float]]) -> Ablation:
    """The gains over the baseline; `judged` are the name, the split, its number of images, and the seeds."""
    gains = {name: paired_gain(values, maps[BASELINE]) for name, values in maps.items() if name != BASELINE}
    return Ablation(*judged, teacher, {name: tuple(values) for name, values in maps.items()}, gains)


def render(measured: Ablation) -> str:
    """The table for a terminal."""
    lead = difference(measured.teacher, sum(measured.maps[BASELINE]) / len(measured.seeds))
    behind = "" if lead is None or lead > 0 else "\n! the teacher is not better than the baseline: there is nothing to learn from it"
    masks = "" if measured.masks is None else f"\n\n{grid(MASK_HEADER, table_rows(measured.masks))}"
    return f"{grid(HEADER, table_rows(measured))}{masks}\n{counts(measured)}\n{LEGEND}{behind}"


def counts(measured: Ablation) -> str:
    """Numbers of seeds and images."""
    trained = f"{len(measured.seeds)} seed{'s' if len(measured.seeds) > 1 else ''}"
    return f"{trained}, {measured.num_images} images of split {measured.split}"


def table_rows(measured: Ablation) -> list[list[str]]:
    """One row per network: mean mAP, the gain in points with its interval, the share of the gap to the teacher that was closed."""
    rows = [["teacher", number(measured.teacher), UNDEFINED, UNDEFINED, UNDEFINED]]
    for name, values in measured.maps.items():
        gain = measured.gains.get(name)
        closed = None if gain is None else measured.closed(name)
        rows.append(
            [
                name,
                number(sum(values) / len(values)),
                UNDEFINED if gain is None else f"{gain.mean * 100:+.2f}",
                UNDEFINED if gain is None else interval(gain),
                UNDEFINED if closed is None else f"{closed:z.0%}",
            ]
        )
    return rows


def interval(gain: Gain) -> str:
    """The interval in points; "-" for a single seed."""
    return UNDEFINED if gain.low is None or gain.high is None else f"{gain.low * 100:+.2f} to {gain.high * 100:+.2f}"
