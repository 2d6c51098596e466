"""Verdicts in the forms that CI systems read."""

import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from deploy.bundles.manifest import Verdict
from deploy.comparison.interval import Effect
from pipeline.config.gate_lines import gate_lines
from pipeline.results import verdicts
from stages.config import GateConfig


def of(name: str, verdict: str, *, target: str = "cpu", metric: str = "map", limit: str = ">= 0.3", **more: object) -> Verdict:
    given = {"measured": 0.25, **more}
    return Verdict.model_validate({"name": name, "target": target, "metric": metric, "verdict": verdict, "limit": limit, **given})


FALL = Effect(change=0.021, low=0.015, high=0.0275, num=1000)
RISE = Effect(change=0.04, low=-0.02, high=0.13, num=60)
VERDICTS = [
    of("good | <enough>", "pass", measured=0.6234567),
    of("no worse", "fail", limit="falls <= 0.01 from reference", effect=FALL, reference=0.271, how="1000 images"),
    of(
        *("quick", "inconclusive"),
        metric="latency_end_to_end_p50_ms",
        limit="rises <= 10% from reference",
        measured=12.5,
        effect=RISE,
        reference=12.02,
        how="480 passes per engine on photographs, interleaved in 60 blocks, 30.0 s",
        load={"other_cores": 1.0, "load_average": 2.0, "governor": None, "frequency_mhz": None, "throttled": 0},
        why="too few blocks to tell: 60 measured, about 140 would suffice",
    ),
    of("small ones", "incomparable", metric="map_small", measured=None, why="map_small is undefined on this data\nand\x00 so on"),
    of("elsewhere", "unmeasured", target="gpu", measured=None, why="no GPU"),
]

MARKDOWN = f"""\
### edgedistill gate: 1 pass, 1 fail, 1 inconclusive, 1 unmeasured, 1 incomparable (exit code 10)

| | gate | target | measured | allowed | |
| --- | --- | --- | ---: | --- | --- |
| ✅ | good \\| &lt;enough> | cpu | 0.6235 | >= 0.3 |  |
| ❌ | no worse | cpu | 0.2500 | falls &lt;= 0.01 from reference | changed by -0.021 (-0.0275 to -0.015) from 0.2710; 1000 images |
| ❔ | quick | cpu | 12.5000 | rises &lt;= 10% from reference | changed by +4.00% (-2.00% to +13.00%) from 12.0200; 480 passes per engine \
on photographs, interleaved in 60 blocks, 30.0 s; other processes kept 1.0 of \
{os.cpu_count()} cores busy; too few blocks to tell: 60 measured, about \
140 would suffice |
| 🚫 | small ones | cpu | - | >= 0.3 | map_small is undefined on this data and\\x00 so on |
| ⏭️ | elsewhere | gpu | - | >= 0.3 | no GPU |
"""


@pytest.mark.parametrize(
    ("measured", "limit", "shown"),
    [
        (0.29996, ">= 0.3", "0.29996"),
        (0.2999999996, ">= 0.3", "0.2999999996"),
        (0.3, ">= 0.3", "0.3000"),
        (0.30004, ">= 0.3", "0.30004"),
        (0.123456, ">= 0.123456", "0.123456"),
        (20.00004, "<= 20", "20.00004"),
        (0.59999, ">= 0.3 and <= 0.6", "0.59999"),
        (0.25, ">= 0.3", "0.2500"),
        (1234567.0, "<= 1234567", "1234567"),
        (0.01, "falls <= 0.01 from float", "0.0100"),  # it is the change that is limited
    ],
)
def test_a_number_close_to_its_limit_is_told_from_it(measured: float, limit: str, shown: str) -> None:
    one = of("close", "fail", measured=measured, limit=limit)
    assert f"map on cpu is {shown}, allowed {limit}" in verdicts.message(one)
    assert f" {shown}  {limit}" in verdicts.text([one])
    assert f"| {shown} |" in verdicts.markdown([one], 10)


def test_a_change_close_to_its_limit_is_told_from_it() -> None:
    effect = Effect(change=0.004, low=-0.00999, high=0.010004, num=60)
    given: dict[str, Any] = {"effect": effect, "reference": 0.5, "how": "60 images"}
    fell = verdicts.details(of("close", "inconclusive", limit="falls <= 0.01 from float", **given))
    assert fell == "changed by -0.004 (-0.010004 to +0.00999) from 0.5000; 60 images"
    rose = verdicts.details(of("close", "inconclusive", limit="rises <= 1% from float", **given))
    assert rose == "changed by +0.40% (-1.00% to +1.0004%) from 0.5000; 60 images"


def test_markdown_is_a_table_for_people() -> None:
    assert verdicts.markdown(VERDICTS, 10) == MARKDOWN
    assert verdicts.markdown([], 12) == "### edgedistill gate: no gate is configured (exit code 12)\n\n"


def test_junit_as_another_program_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "gate.xml"
    file.write_text(verdicts.junit(VERDICTS), encoding="utf-8")
    found = JUnitXml.fromfile(str(file))
    assert (found.tests, found.failures, found.errors) == (5, 1, 1)
    (suite,) = found
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (5, 1, 1, 2)
    cases = list(suite)
    kinds = [[type(result) for result in case.result] for case in cases]
    assert kinds == [[], [Failure], [Skipped], [Error], [Skipped]]
    assert [case.classname for case in cases[:3]] == ["cpu.map", "cpu.map", "cpu.latency_end_to_end_p50_ms"]
    assert cases[1].result[0].message == (
        "fail: map on cpu is 0.2500, allowed falls <= 0.01 from reference; changed by -0.021 (-0.0275 to -0.015) from 0.2710; 1000 images"
    )
    assert cases[0].system_out == "pass: map on cpu is 0.6235, allowed >= 0.3"


def test_junit_is_xml_whatever_a_class_is_called() -> None:
    (case,) = ET.fromstring(verdicts.junit([of("odd", "fail", metric="map/a\x00\x1b[1m")]))[0]
    assert case.attrib["classname"] == "cpu.map/a\\x00\\x1b[1m"


def test_junit_keeps_the_order_and_attributes_of_the_schema() -> None:
    """Of the schema that CI systems share: which attributes an element must and may have, and that counts are of what is there."""
    suite = ET.fromstring(verdicts.junit(VERDICTS))[0]
    assert {"name", "tests", "failures", "errors", "skipped", "time"} == set(suite.attrib)
    assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))
    for case in suite:
        assert set(case.attrib) == {"name", "classname", "time"}
        assert [child.tag for child in case][-1] == "system-out"
        assert [child.tag for child in case][:-1] in ([], ["failure"], ["error"], ["skipped"])


YAML = """\
name: small   # gates: not here
data: {gates: [1, 2]}

kept: &kept {metric: map, min: 0.1}
text: |
  gates:
    - {metric: map}
gates:

  # the first
  - {metric: map, min: 0.3}
  - *kept
  - metric: latency_end_to_end_p50_ms  # of the whole
    max_increase: 10%
    nested: [[1], {a: 2}]

  -
    metric: bytes
    max: 3
after: 1
"""


class TestLines:
    def test_with_comments_anchors_and_aliases(self, tmp_path: Path) -> None:
        file = tmp_path / "pipeline.yaml"
        file.write_text(YAML, encoding="utf-8")
        lines = YAML.splitlines()
        found = gate_lines(file)
        assert [path for path, _ in found] == [file] * 4
        shown = [lines[number - 1].strip() for _, number in found]
        assert shown == ["- {metric: map, min: 0.3}", "- *kept", "- metric: latency_end_to_end_p50_ms  # of the whole", "metric: bytes"]

    def test_of_the_file_that_gives_the_gates(self, tmp_path: Path) -> None:
        base, file = tmp_path / "base.yaml", tmp_path / "sub" / "pipeline.yaml"
        file.parent.mkdir()
        base.write_text(YAML, encoding="utf-8")
        file.write_text("extends: ../base.yaml\nname: other\n", encoding="utf-8")
        assert [number for _, number in gate_lines(file)] == [number for _, number in gate_lines(base)]
        assert gate_lines(file)[0][0].resolve() == base
        file.write_text("extends: ../base.yaml\ngates:\n- {metric: map}\n", encoding="utf-8")
        assert gate_lines(file) == [(file, 3)]

    @pytest.mark.parametrize("text", ["name: x\n", "gates: []\n", "gates: null\n"])
    def test_no_gates(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "pipeline.yaml"
        file.write_text(text, encoding="utf-8")
        assert gate_lines(file) == []


class TestAnnotations:
    GATES = (
        GateConfig(metric="map", min=0.3, name="good | <enough>"),
        GateConfig(metric="map", max_drop=0.01, name="no worse", target="cpu"),
        GateConfig(metric="latency_end_to_end_p50_ms", max_increase="10%", name="quick"),
        GateConfig(metric="map_small", min=0.3, name="small ones"),
    )

    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        Path("pipeline.yaml").write_text(YAML, encoding="utf-8")
        return Path("pipeline.yaml")

    def test_stand_at_the_gates_own_lines(self, file: Path) -> None:
        made = verdicts.annotate(VERDICTS, self.GATES, file, settings=[])
        assert [line.partition("::fail")[0].partition("::inc")[0] for line in made] == [
            "::error file=pipeline.yaml,line=12,title=gate no worse",
            "::warning file=pipeline.yaml,line=13,title=gate quick",
            "::error file=pipeline.yaml,line=18,title=gate small ones",
        ]
        assert "480 passes" in made[1]
        assert "(-2.00%25 to +13.00%25)" in made[1]
        assert "%0A" not in made[0]
        assert "\n" not in made[2]

    def test_have_no_line_where_the_gates_stand_in_no_file(self, file: Path) -> None:
        for given, settings in ((None, []), (file, ["gates=[]"])):
            made = verdicts.annotate(VERDICTS, self.GATES, given, settings=settings)
            assert made[0].partition("::fail")[0] == "::error title=gate no worse"

    def test_are_for_github_alone(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GITHUB_ACTIONS")
        assert verdicts.annotate(VERDICTS, self.GATES, file, settings=[]) == []


def test_files_appear_together_and_in_the_jobs_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    paths = verdicts.write(tmp_path / "out", VERDICTS, 10)
    assert [path.name for path in paths] == ["gate.json", "gate.xml", "gate.md"]
    assert summary.read_text(encoding="utf-8") == "before\n" + MARKDOWN


def test_a_summary_of_the_job_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "host" / "summary.md"))
    assert all(path.is_file() for path in verdicts.write(tmp_path / "out", VERDICTS, 10))
    assert "summary.md: cannot be written (No such file or directory)" in capsys.readouterr().err
