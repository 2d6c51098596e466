"""Looks up the versions in constraints.txt in databases of advisories, by pip-audit; ends with 1 if one is affected.

python locks/audit.py

A database counts as reached if it knows an old version that is certainly affected: some mirrors answer, but know nothing. If none is
reached, that is reported in capitals, and nothing is audited.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "locks" / "constraints.txt"
SERVICES = ("osv", "pypi")
CANARY = "pillow==9.0.0\n"
"""It has had dozens of advisories since 2022."""

Found = dict[str, Any]
Look = Callable[[str, Path], Found | str]


def main(look: Look | None = None) -> int:
    """Audit with the first database that is reached."""
    look = look or ask
    reasons = []
    for service in SERVICES:
        reason = _why_not(service, look)
        if reason is None:
            return _report(service, look(service, CONSTRAINTS))
        reasons.append(f"{service}: {reason}")
    _say(f"NOT AUDITED: no database of advisories was reached ({'; '.join(reasons)}); run make audit where one is")
    return 0


def ask(service: str, requirements: Path) -> Found | str:
    """The answer of pip-audit, or why there is none."""
    program = Path(sys.executable).with_name("pip-audit")
    options = ("--disable-pip", "--no-deps", "--format", "json", "--desc", "off", "--progress-spinner", "off")
    command = [str(program), "--requirement", str(requirements), "--vulnerability-service", service, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    try:
        found: Found = json.loads(done.stdout)
    except ValueError:
        return (done.stderr.strip().splitlines() or ["no answer"])[-1][:100]
    return found


def _why_not(service: str, look: Look) -> str | None:
    """Why a database is no help; None if it is."""
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "requirements.txt"
        file.write_text(CANARY, encoding="utf-8")
        found = look(service, file)
    if isinstance(found, str):
        return found
    return None if _affected(found) else f"it knows nothing of {CANARY.strip()}"


def _report(service: str, found: Found | str) -> int:
    if isinstance(found, str):
        _say(f"NOT AUDITED: {service}: {found}")
        return 1
    affected, skipped = _affected(found), [one for one in found["dependencies"] if "skip_reason" in one]
    for one in affected:
        _say(f"{one['name']} {one['version']}: {', '.join(known['id'] for known in one['vulns'])}")
    for one in skipped:
        _say(f"NOT AUDITED: {one['name']}: {one['skip_reason']}")
    _say(f"{service}: {len(found['dependencies']) - len(skipped)} packages audited, {len(affected)} affected, {len(skipped)} not found")
    return 1 if affected else 0


def _affected(found: Found) -> Sequence[Found]:
    return [one for one in found["dependencies"] if one.get("vulns")]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
