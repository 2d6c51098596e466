"""Verdicts for machines and people: gate.json, JUnit XML, Markdown for a pull request, annotations in a GitHub run."""

import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from deploy.bundles.manifest import Verdict
from deploy.comparison import limits
from deploy.errors import in_cell, plain
from pipeline.config.gate_lines import gate_lines
from pipeline.results.table import judged, number, verdict_table
from pipeline.store.files import replace_json, replace_text
from pipeline.terminal.answer import say
from stages.config import GateConfig
from stages.measurement.verdicts import limit

SUITE = "edgedistill gates"
_ERRORS = ("fail", "incomparable")
_MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "unmeasured": "⏭️", "incomparable": "🚫"}


def text(verdicts: Sequence[Verdict]) -> str:
    """The table for a terminal; below it, what was compared and what disturbed the measurement."""
    if not verdicts:
        return "no gate is configured, so nothing was judged"
    notes = [plain(f"· {one.target}, gate {one.name}: {words}") for one in verdicts if (words := details(one)) is not None]
    return "\n".join([verdict_table([one.model_dump(mode="json") for one in verdicts]), *notes])


def details(one: Verdict) -> str | None:
    """The result of a gate on a change, in words: the change, its interval, what was compared; None for any other gate."""
    if one.effect is None:
        return None
    effect = one.effect.reversed() if one.limit.startswith("falls") else one.effect
    change, low, high = (_changed(value, one.limit) for value in (effect.change, effect.low, effect.high))
    interval = f" ({low} to {high})" if effect.num else ""
    disturbed = None if one.load is None else one.load.warning()
    warning = f"; {disturbed}" if disturbed is not None else ""
    return f"changed by {change}{interval} from {number(one.reference)}; {one.how}{warning}"


def _changed(value: float, limit: str) -> str:
    """A change, in percent if its limit is, with enough digits to tell it from the limit."""
    share = "%" in limit
    value, digits = (value * 100, "+.2f") if share else (value, "+.3g")
    return limits.told_apart(value, f"{value + 0:{digits}}", limits.bounds_of_change(limit)) + ("%" if share else "")


def write(folder: Path, verdicts: Sequence[Verdict], code: int) -> list[Path]:
    """Write gate.json, gate.xml and gate.md; in a GitHub job, also add the Markdown to the job's summary, if that can be written."""
    paths = [folder / "gate.json", folder / "gate.xml", folder / "gate.md"]
    replace_json(paths[0], {"format": 1, "exit_code": code, "gates": [one.model_dump(mode="json") for one in verdicts]})
    replace_text(paths[1], junit(verdicts))
    replace_text(paths[2], markdown(verdicts, code))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown(verdicts, code))
        except OSError as error:  # in a container, the file of the host
            say(f"$GITHUB_STEP_SUMMARY {summary}: cannot be written ({error.strerror}); the job's summary lacks the gates", sys.stderr)
    return paths


def junit(verdicts: Sequence[Verdict]) -> str:
    """One test case per gate: fail is a failure, incomparable an error, unmeasured and inconclusive are skipped."""
    kinds = [one.verdict for one in verdicts]
    counts = {"failures": kinds.count("fail"), "errors": kinds.count("incomparable")}
    counts["skipped"] = kinds.count("unmeasured") + kinds.count("inconclusive")
    totals = {"name": SUITE, "tests": str(len(verdicts)), **{name: str(count) for name, count in counts.items()}, "time": "0"}
    suites = ET.Element("testsuites", {key: totals[key] for key in ("name", "tests", "failures", "errors", "time")})
    suite = ET.SubElement(suites, "testsuite", totals)
    for one in verdicts:
        case = ET.SubElement(suite, "testcase", {"name": plain(one.name), "classname": plain(f"{one.target}.{one.metric}"), "time": "0"})
        tag = {"fail": "failure", "incomparable": "error", "unmeasured": "skipped", "inconclusive": "skipped"}.get(one.verdict)
        if tag is not None:
            kind = {} if tag == "skipped" else {"type": one.verdict}
            ET.SubElement(case, tag, {"message": plain(message(one)), **kind})
        ET.SubElement(case, "system-out").text = plain(message(one))
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=False).join(('<?xml version="1.0" encoding="utf-8"?>\n', "\n"))


def message(one: Verdict) -> str:
    """A verdict in one line: measured, limit, interval, reason."""
    parts = [
        f"{one.verdict}: {one.metric} on {one.target} is {judged(one.measured, one.limit)}, allowed {one.limit}",
        details(one),
        one.why,
    ]
    return "; ".join(part for part in parts if part)


def markdown(verdicts: Sequence[Verdict], code: int) -> str:
    """A table for a pull request."""
    kinds = [one.verdict for one in verdicts]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in _MARKS if kind in kinds) or "no gate is configured"
    lines = [f"### edgedistill gate: {counts} (exit code {code})", ""]
    if verdicts:
        lines += ["| | gate | target | measured | allowed | |", "| --- | --- | --- | ---: | --- | --- |"]
    for one in verdicts:
        notes = "; ".join(part for part in (details(one), one.why) if part)
        cells = [_MARKS[one.verdict], one.name, one.target, judged(one.measured, one.limit), one.limit, notes]
        lines.append("| " + " | ".join(in_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def annotate(verdicts: Sequence[Verdict], gates: Sequence[GateConfig], file: Path | None, *, settings: Sequence[str]) -> list[str]:
    """GitHub annotations at the gates' lines: an error for a failed gate, a warning for an inconclusive one; none outside GitHub runs.

    Args:
        file: pipeline.yaml; None for a bundle's gates, which are in no file.
        settings: the `--set` options; gates set there are in no file either.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return []
    lines = gate_lines(file) if file is not None else []
    if len(lines) != len(gates) or any(setting.startswith("gates=") for setting in settings):
        lines = []
    made = []
    for one in verdicts:
        level = "error" if one.verdict in _ERRORS else "warning" if one.verdict == "inconclusive" else None
        if level is None:
            continue
        index = next((i for i, gate in enumerate(gates) if _is_of(one, gate)), None)
        where = f" file={_property(str(lines[index][0]))},line={lines[index][1]}," if lines and index is not None else " "
        made.append(f"::{level}{where}title={_property(f'gate {one.name}')}::{_escaped(message(one))}")
    return made


def _is_of(one: Verdict, gate: GateConfig) -> bool:
    named = gate.name is None or gate.name == one.name
    words = limit(gate)  # a verdict also says which baseline it compares with
    return named and gate.metric == one.metric and one.limit in (words, *_called(words)) and gate.target in (None, one.target)


def _called(words: str) -> list[str]:
    return [f"{words} at equal {what}" for what in ("steps", "cost")] if words.endswith("baseline") else []


def _escaped(value: str) -> str:
    return plain(value).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _escaped(value).replace(":", "%3A").replace(",", "%2C")
