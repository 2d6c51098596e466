"""A gate's limit in words, and whether a stored verdict follows from it: a number equal to the limit passes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.comparison.interval import Effect

_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_BOUNDS = re.compile(rf"(?:>= (?P<low>{_NUMBER}))?(?: and )?(?:<= (?P<high>{_NUMBER}))?")
_CHANGE = re.compile(rf"(?:rises|falls) <= (?P<limit>{_NUMBER})(?P<share>%?) from \w+(?: at equal (?:cost|steps))?")
_ROUNDED = 1e-11
"""Words have twelve digits."""


def of_number(low: float | None, high: float | None) -> str:
    """'>= 0.3', '<= 20' or both."""
    return " and ".join(f"{sign} {bound:.12g}" for sign, bound in ((">=", low), ("<=", high)) if bound is not None)


def bounds(limit: str) -> tuple[float, ...]:
    """The numbers in a limit on a number, as words; none in any other limit."""
    found = _BOUNDS.fullmatch(limit)
    return () if found is None else tuple(float(bound) for bound in found.groups() if bound is not None)


def bounds_of_change(limit: str) -> tuple[float, ...]:
    """How far a limit on a change, as words, lets the metric rise, below 0 if it limits a fall; in percent if that is its unit."""
    found = _CHANGE.fullmatch(limit)
    return () if found is None else (float(found["limit"]) * (-1 if limit.startswith("falls") else 1),)


def told_apart(value: float, text: str, bounds: Sequence[float]) -> str:
    """`text`, which is the value rounded, with as many more digits as it takes to show on which side of each bound the value is."""
    sign = "+" if text[0] in "+-" else ""
    longer = (f"{value:{sign}.{digits}g}" for digits in range(5, 18))
    sides = [_side(value, bound) for bound in bounds]
    return next(one for one in (text, *longer) if [_side(float(one.replace(",", "")), bound) for bound in bounds] == sides)


def _side(value: float, bound: float) -> int:
    return (value > bound) - (value < bound)


def of_gate(gate: Mapping[str, Any]) -> str | None:
    """The limit of a gate as a plan has it, if it is on the number itself."""
    bounds = [gate.get(key) for key in ("min", "max")]
    numbers = [float(bound) if isinstance(bound, int | float) else None for bound in bounds]
    return None if any(gate.get(key) is not None for key in ("max_drop", "max_increase")) else of_number(*numbers) or None


def holds(limit: str, measured: float | None, effect: Effect | None) -> bool | None:
    """Whether a verdict with these figures is a pass; None if the interval of a change has the limit inside it.

    Raises:
        ValueError: not a limit in words, or without the figures that it needs.
    """
    if (change := _CHANGE.fullmatch(limit)) is not None:
        if effect is None or not effect.low <= effect.change <= effect.high:
            raise ValueError("there is no interval of the change")
        bound = float(change["limit"]) / (100 if change["share"] else 1)
        verdict = effect.verdict(bound + abs(bound) * _ROUNDED)
        return None if verdict == "inconclusive" else verdict == "pass"
    found = _BOUNDS.fullmatch(limit)
    if found is None or limit != of_number(*(None if found[key] is None else float(found[key]) for key in ("low", "high"))) or not limit:
        raise ValueError(f"'{limit[:60]}' is not a limit")
    if measured is None:
        raise ValueError("nothing was measured")
    slack = abs(measured) * _ROUNDED
    return all(found[key] is None or sign * (measured - float(found[key])) >= -slack for key, sign in (("low", 1), ("high", -1)))
