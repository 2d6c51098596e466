"""Robustness as text: one table of all engines, the student's leads, and what they leave open."""

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {"float": "student", "teacher": "teacher", "baseline": "baseline"}
"""The engines that stand for networks, all in fp32; the student's is its graph as exported."""

ORDER = ("teacher", "baseline", "float")


def ordered(engines: Mapping[str, Any]) -> list[str]:
    """Networks first, then the targets."""
    return [*(name for name in ORDER if name in engines), *(name for name in engines if name not in ORDER)]


def columns(robustness: Mapping[str, Any]) -> list[str]:
    """The metrics that were measured."""
    return list(dict.fromkeys(metric for one in robustness["engines"].values() for metric in one["values"]))


def lead_lines(robustness: Mapping[str, Any]) -> list[str]:
    """The student's lead over the baseline in each metric."""
    leads: Sequence[Mapping[str, Any]] = robustness["leads"]
    told = []
    for one in leads:
        if one["gain"] is not None:
            ends = "too few images with objects" if one["low"] is None else f"{one['low']:+.3f} to {one['high']:+.3f}"
            told.append(f"{one['gain']:+.4f} ({ends}) {one['metric']}")
    return [f"student over baseline: {', '.join(told)}; in parentheses: 95% interval over the images"] if told else []


def about(robustness: Mapping[str, Any]) -> list[str]:
    """What the columns are."""
    first = next(iter(robustness["engines"].values()), None)
    if first is None:
        return []
    lines = ["baseline: the stronger one, if there are two"] if "baseline" in robustness["engines"] else []
    if first["splits"]:
        counts = ", ".join(f"{name} ({one['num_images']} images)" for name, one in first["splits"].items())
        lines.append(f"map@SPLIT: mAP on a split that was not validated on: {counts}")
    if first["groups"]:
        worst = {name: one["worst_group"] for name, one in robustness["engines"].items() if one["worst_group"] is not None}
        named = ", ".join(f"{TITLES.get(name, name)} {group}" for name, group in worst.items())
        lines.append(f"map_worst_group: the lowest mAP of any group with enough images: {named}")
    if (sweep := first["sweep"]) is not None:
        severities = "severity 3" if sweep["mode"] == "quick" else "severities 1 to 5"
        lines.append(
            f"mpc: mean mAP over 15 corruptions at {severities} of {sweep['num_images']} images; rpc: its ratio to their mAP as they are"
        )
    return lines
