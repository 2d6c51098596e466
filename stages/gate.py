"""Measured numbers against the limits of pipeline.yaml."""

import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal

from deploy import metrics
from deploy.bundle import Verdict
from stages.artifacts import Report, ReportFacts, VerdictFacts, Verdicts, write_facts
from stages.config import GateConfig
from stages.stage import stage

EXIT_REQUIRED, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_INCOMPARABLE = 5, 10, 11, 12


@stage(version=1)
def gate(out: Path, gates: tuple[GateConfig, ...], report: Report) -> Verdicts:
    """Judge one report; a failed gate is a verdict, not an error."""
    facts = report.facts
    write_facts(out, VerdictFacts(target=facts.target, verdicts=tuple(judge(facts, gates))))
    return Verdicts(out)


def judge(report: ReportFacts, gates: Sequence[GateConfig]) -> list[Verdict]:
    """One verdict for each gate that names the report's target, or none."""
    return [_verdict(report, one) for one in gates if one.target in (None, report.target)]


def exit_code(
    verdicts: Iterable[Verdict], gates: Iterable[GateConfig], *, required: Collection[str] = (), unmeasured: Collection[str] = ()
) -> int:
    """What the program ends with, given the verdicts on all targets.

    10 where a gate failed; else 5 where a target that is `required` is `unmeasured`; else 12 where a gate had nothing to compare,
    names a target that is unmeasured, or all targets are; else 11 where a gate is inconclusive; else 0.

    Args:
        required, unmeasured: names of targets.
    """
    kinds = {verdict.verdict for verdict in verdicts}
    if "fail" in kinds:
        return EXIT_FAIL
    if set(required) & set(unmeasured):
        return EXIT_REQUIRED
    if "incomparable" in kinds or kinds == {"unmeasured"} or {one.target for one in gates} & set(unmeasured):
        return EXIT_INCOMPARABLE
    return EXIT_INCONCLUSIVE if "inconclusive" in kinds else 0


def limit(one: GateConfig) -> str:
    """The gate's limit in words: '>= 0.3', '<= 20' or both; a number equal to the limit passes."""
    parts = [f"{sign} {number:.12g}" for sign, number in ((">=", one.min), ("<=", one.max)) if number is not None]
    return " and ".join(parts)


def _verdict(report: ReportFacts, one: GateConfig) -> Verdict:
    verdict: Literal["pass", "fail", "unmeasured", "incomparable"]
    measured, why = None, report.why
    if why is not None:
        verdict = "unmeasured"
    else:
        measured, why = _measured(report, one.metric)
        verdict = "incomparable" if measured is None else "pass" if _within(measured, one) else "fail"
    words = limit(one)
    return Verdict(
        name=one.name or f"{one.metric} {words} on {report.target}",
        target=report.target,
        metric=one.metric,
        verdict=verdict,
        measured=measured,
        limit=words,
        why=why,
    )


def _measured(report: ReportFacts, metric: str) -> tuple[float | None, str | None]:
    """The number, or None and why there is none to compare."""
    try:
        number = metrics.value(metric, report.accuracy, report.latency, report.bytes)
    except ValueError as error:
        return None, str(error)
    if number is None or not math.isfinite(number):
        return None, f"{metric} is undefined on this data" if report.accuracy is not None else f"{metric} was not measured, without data"
    return number, None


def _within(measured: float, one: GateConfig) -> bool:
    return (one.min is None or measured >= one.min) and (one.max is None or measured <= one.max)
