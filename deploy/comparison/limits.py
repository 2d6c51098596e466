"""A gate's limit in words, and whether a stored verdict follows from it: a number equal to the limit passes."""

import re
from collections.abc import Mapping
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
        found = effect.verdict(bound + abs(bound) * _ROUNDED)
        return None if found == "inconclusive" else found == "pass"
    bounds = _BOUNDS.fullmatch(limit)
    if bounds is None or limit != of_number(*(None if bounds[key] is None else float(bounds[key]) for key in ("low", "high"))) or not limit:
        raise ValueError(f"'{limit[:60]}' is not a limit")
    if measured is None:
        raise ValueError("nothing was measured")
    slack = abs(measured) * _ROUNDED
    return all(bounds[key] is None or sign * (measured - float(bounds[key])) >= -slack for key, sign in (("low", 1), ("high", -1)))
