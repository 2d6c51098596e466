"""Constraints and SBOM against pyproject.toml, and the audit with databases that know something, nothing, or are not there."""

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = {"base": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


def script(name: str) -> Any:
    """A script of locks/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "locks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit, write = script("audit"), script("write")


def locked(file: Path = write.CONSTRAINTS) -> Iterator[tuple[Requirement, int]]:
    """Every line of a lock, and how many hashes it has."""
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in (line for line in text.splitlines() if line and not line.lstrip().startswith("#")):
        yield Requirement(line.partition(" --hash=")[0]), len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line))


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class TestLocks:
    @pytest.mark.parametrize("extra", [*EXTRAS, "constraints"])
    def test_every_line_is_one_version_with_hashes(self, extra: str) -> None:
        found = list(locked(write.lock(extra)))
        assert len(found) > 10
        assert all(hashes > 0 and [one.operator for one in requirement.specifier] == ["=="] for requirement, hashes in found)

    @pytest.mark.parametrize("extra", EXTRAS)
    def test_every_extra_is_in_it_with_versions_that_are_allowed(self, extra: str) -> None:
        versions: dict[str, list[str]] = {}
        for requirement, _ in locked(write.lock(extra)):
            versions.setdefault(key(requirement.name), []).append(str(requirement.specifier).removeprefix("=="))
        for needed in map(Requirement, {*EXTRAS["base"], *EXTRAS[extra]}):
            assert versions.get(key(needed.name)), f"{needed.name} is not locked: make locks"
            assert all(needed.specifier.contains(one, prereleases=True) for one in versions[key(needed.name)]), f"{needed}: make locks"

    @pytest.mark.parametrize("extra", EXTRAS)
    def test_two_extras_never_ask_for_two_versions(self, extra: str) -> None:
        assert {str(one.specifier) + key(one.name) for one, _ in locked(write.lock(extra))} <= {
            str(one.specifier) + key(one.name) for one, _ in locked()
        }

    def test_the_sbom_lists_what_users_install_with_the_locked_versions(self) -> None:
        sbom = json.loads(write.SBOM.read_text(encoding="utf-8"))
        assert (sbom["bomFormat"], sbom["metadata"]["component"]["name"]) == ("CycloneDX", "edgedistill")
        listed = {(key(one["name"]), one["version"]) for one in sbom["components"]}
        assert listed <= {(key(one.name), str(one.specifier).removeprefix("==")) for one, _ in locked()}
        names = {name for name, _ in listed}
        for extra in ("base", *write.extras()):
            assert {key(Requirement(line).name) for line in EXTRAS[extra]} <= names
        assert "pytest" not in names


def answer(*affected: str, skipped: str = "") -> dict[str, Any]:
    found: list[dict[str, Any]] = [{"name": name, "version": "1", "vulns": [{"id": "CVE-1"}]} for name in affected]
    found += [{"name": "fine", "version": "1", "vulns": []}]
    return {"dependencies": found + ([{"name": skipped, "skip_reason": "not found"}] if skipped else [])}


class TestAudit:
    """A database is a function: of its name and the file, an answer or why there is none."""

    def test_no_database_is_said_in_capitals(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert audit.main(lambda service, _: "no route to host" if service == "osv" else answer()) == 0
        line = capsys.readouterr().out
        assert line.startswith(
            "NOT AUDITED: no database of advisories was reached (osv: no route to host; pypi: it knows nothing of pillow"
        )

    def test_the_second_database_is_asked(self, capsys: pytest.CaptureFixture[str]) -> None:
        asked: list[tuple[str, str]] = []

        def look(service: str, file: Path) -> Any:
            asked.append((service, file.name))
            if service == "osv":
                return "no route to host"
            return answer(skipped="odd") if file == write.CONSTRAINTS else answer("pillow")

        assert audit.main(look) == 0
        assert asked == [("osv", "requirements.txt"), ("pypi", "requirements.txt"), ("pypi", "constraints.txt")]
        assert capsys.readouterr().out == "NOT AUDITED: odd: not found\npypi: 1 packages audited, 0 affected, 1 not found\n"

    def test_an_affected_version_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert audit.main(lambda *_: answer("pillow")) == 1
        assert "pillow 1: CVE-1\n" in capsys.readouterr().out

    def test_an_audit_that_breaks_off_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert audit.main(lambda _, file: "timeout" if file == write.CONSTRAINTS else answer("pillow")) == 1
        assert capsys.readouterr().out == "NOT AUDITED: osv: timeout\n"
