"""The part on robustness of docs/evidence.md: tables from the rows that robustness.py has measured."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from page import table

from pipeline.results.gains import paired_gain
from pipeline.results.table import UNDEFINED, number

ROLES = ("baseline", "baseline with corrupt", "student", "student with student_view")
PAIRS = (
    ("student", "baseline"),
    ("student with student_view", "baseline"),
    ("student with student_view", "baseline with corrupt"),
    ("student with student_view", "student"),
)
ENGINES = ("fp32", "int8")
METRICS = {"map": "clean", "map_shifted": "shifted", "mpc": "mpc", "rpc": "rpc"}
"""Figures of a row and their columns."""

Row = Mapping[str, Any]
Table = tuple[list[str], list[list[str]]]


def tables(rows: Sequence[Row]) -> dict[str, Table]:
    """For each study the means, the paired gains and the full sweep of each engine, by title."""
    found: dict[str, Table] = {}
    for study in dict.fromkeys(row["study"] for row in rows):
        mine = [row for row in rows if row["study"] == study]
        metrics = [name for name in METRICS if any(name in row["engines"]["fp32"] for row in mine)]
        columns = [METRICS[name] for name in metrics]
        every = [(engine, role) for engine in ENGINES for role in ROLES]
        means = [[engine, role, *averages(mine, engine, role, metrics)] for engine, role in every]
        gains = [
            [engine, f"{role} over {other}", *(gained(mine, engine, role, other, name) for name in metrics)]
            for engine in ENGINES
            for role, other in PAIRS
        ]
        found[f"{study}: means over the seeds"] = (["engine", "network", "seeds", *columns], means)
        found[f"{study}: paired gains in points, with 95% intervals"] = (["engine", "networks", *columns], gains)
        if whole := [[engine, role, *one] for engine, role in every if (one := full(mine, engine, role)) is not None]:
            found[f"{study}: all images and severities 1 to 5, first seed"] = (["engine", "network", "mpc", "rpc"], whole)
        found[f"{study}: mAP by corruption, fp32, severity 3, means over the seeds"] = by_corruption(mine)
    return found


def averages(rows: Sequence[Row], engine: str, role: str, metrics: Sequence[str]) -> list[str]:
    """The number of seeds, and the means."""
    own = [row["engines"][engine] for row in rows if row["role"] == role]
    return [str(len(own)), *(number(mean([one[name] for one in own])) for name in metrics)]


def mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if there is none, or one is undefined, as the ratio to a clean mAP of 0 is."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(values) if values and len(defined) == len(values) else None


def gained(rows: Sequence[Row], engine: str, role: str, other: str, metric: str) -> str:
    """The gain over another network at the same seeds, with its interval, in points (for rpc, hundredths); a dash where undefined."""
    by_role = {one: {row["seed"]: row["engines"][engine][metric] for row in rows if row["role"] == one} for one in (role, other)}
    pairs = [(value, by_role[other][seed]) for seed, value in by_role[role].items() if seed in by_role[other]]
    if not pairs or any(value is None for pair in pairs for value in pair):
        return UNDEFINED
    gain = paired_gain([own for own, _ in pairs], [rival for _, rival in pairs])
    end = "" if gain.low is None or gain.high is None else f" ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    return f"{100 * gain.mean:+.1f}{end}"


def full(rows: Sequence[Row], engine: str, role: str) -> list[str] | None:
    """The figures of the full sweep; None if there was none."""
    own = [row["engines"][engine] for row in rows if row["role"] == role and "mpc_full" in row["engines"][engine]]
    return [number(own[0]["mpc_full"]), number(own[0]["rpc_full"])] if own else None


def by_corruption(rows: Sequence[Row]) -> Table:
    """A row per corruption and a column per network."""
    own = {role: [row["engines"]["fp32"]["maps"] for row in rows if row["role"] == role] for role in ROLES}
    kinds = next(maps[0] for maps in own.values() if maps)
    cells = [[kind, *(number(mean([one[kind]["3"] for one in maps])) for maps in own.values())] for kind in kinds]
    return ["corruption", *ROLES], cells


def section(rows: Sequence[Row], notes: str) -> str:
    """The part in Markdown: what was found, in words, then the tables; those by corruption folded up."""
    return "\n\n".join(["## Robustness", notes.strip(), *_folded(tables(rows))]) + "\n"


def _folded(found: Mapping[str, Table]) -> Iterator[str]:
    for title, (header, lines) in found.items():
        if "by corruption" in title:
            yield f"<details>\n<summary>{title}</summary>\n\n{table(header, lines)}\n\n</details>"
        else:
            yield f"{title}:\n\n{table(header, lines)}"
