"""The example workflows, step by step in a clean folder, from clone to verdict; then with a planted regression."""

import os
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

LEARNING = """
data: {train_images: 240, val_images: 160}
teacher: {train: {epochs: 16}}
student: {train: {epochs: 16}}
"""
GATES = """
gates:
  - {name: no worse, metric: map, max_drop: 30%}
  - {name: as quick, metric: latency_end_to_end_p50_ms, max_increase: 50%}
  - {name: as large, metric: bytes, max_increase: 1%}
"""


def github() -> dict[str, str]:
    jobs: Any = yaml.safe_load((ROOT / "examples" / "github-gate.yml").read_text(encoding="utf-8"))["jobs"]
    return {step["name"]: step["run"] for step in jobs["gate"]["steps"] if "run" in step}


def gitlab() -> list[str]:
    script: list[str] = yaml.safe_load((ROOT / "examples" / "gitlab-gate.yml").read_text(encoding="utf-8"))["gate"]["script"]
    return script


def test_both_workflows_take_the_same_steps() -> None:
    assert list(github()) == ["install", "run", "gate", "keep"]
    lines = gitlab()
    here = {'"$CI_COMMIT_BRANCH" != "$CI_DEFAULT_BRANCH"': '"$GITHUB_REF" != refs/heads/main'}
    plain = [line.partition("  #")[0].strip() for line in lines[:3]]
    plain[2] = plain[2].replace(*next(iter(here.items())))
    assert plain == [github()[name].partition("  #")[0].strip() for name in ("install", "run", "gate")]
    assert github()["keep"].strip() in lines[3]


@pytest.mark.slow
def test_the_workflow_passes_and_then_stops_a_regression(tmp_path: Path) -> None:
    project, home = tmp_path / "project", tmp_path / "venv"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(project)], check=True)
    venv.create(home, with_pip=True)
    pipeline = project / "gated.yaml"
    pipeline.write_text(f"extends: examples/small.yaml\nname: gated\n{LEARNING}{GATES}", encoding="utf-8")
    summary = tmp_path / "summary.md"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("GITHUB", "PYTHON"))},
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PIPELINE": "gated.yaml",
        "EDGEDISTILL": ".[train]",
        "GITHUB_REF": "refs/heads/main",
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(summary),
    }

    def step(name: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-e", "-c", github()[name]], cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        print(f"--- {name}: exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")  # noqa: T201 - what a failure is understood from
        return done.returncode, done.stdout

    assert step("install")[0] == 0
    assert step("run")[0] == 0
    assert step("gate")[0] == 0  # keeps the first reference
    code, said = step("gate")
    assert code == 0
    assert said.count("  pass\n") == 6
    assert step("keep")[0] == 0

    pipeline.write_text(pipeline.read_text(encoding="utf-8") + "export: {max_detections: 1}\n", encoding="utf-8")
    assert step("run")[0] == 0
    code, said = step("gate")
    assert code == 10
    assert f"::error file=gated.yaml,line={line_of(pipeline, 'no worse')},title=gate no worse::fail: map" in said
    assert "❌ | no worse" in summary.read_text(encoding="utf-8")
    assert step("keep")[0] == 10


def line_of(file: Path, words: str) -> int:
    return next(number for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1) if words in line)
