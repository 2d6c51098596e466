"""The ready files that start many processes of a comparison: they call the command as it is."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from pipeline import cli

EXAMPLES = ROOT / "examples"
SCRIPTS = ("compare-xargs.sh", "compare-slurm.sh")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_one(name: str) -> None:
    subprocess.run(["bash", "-n", str(EXAMPLES / name)], check=True)


@pytest.mark.parametrize("name", [*SCRIPTS, "compare-kubernetes.yml"])
def test_every_call_is_one_that_the_command_takes(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8").replace("[edgedistill, ", "edgedistill ").replace(", ", " ").replace("]", "")
    calls = re.findall(r"edgedistill (compare [^\n>']*)", text)
    assert calls
    for call in calls:
        words = re.sub(r'"[^"]*"', "given", call.partition("  ")[0]).split()
        assert cli.parser().parse_args(words).command == "compare"


def test_the_job_is_indexed_and_all_its_pods_share() -> None:
    job: Any = yaml.safe_load((EXAMPLES / "compare-kubernetes.yml").read_text(encoding="utf-8"))
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", spec["parallelism"])
    (container,) = spec["template"]["spec"]["containers"]
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert container["command"][-2:] == ["--share", "any"]


def test_xargs_starts_as_many_as_it_is_told_and_then_draws(tmp_path: Path) -> None:
    stand_in = tmp_path / "bin" / "edgedistill"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES: $*" >> calls.txt\n', encoding="utf-8")
    stand_in.chmod(stat.S_IRWXU)
    environment = {"PATH": f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "all"}
    subprocess.run(["sh", str(EXAMPLES / "compare-xargs.sh"), "mine.yaml", "3"], cwd=tmp_path, env=environment, check=True)
    *shared, drawn = (tmp_path / "calls.txt").read_text().splitlines()
    assert sorted(shared) == [f"{gpu}: compare mine.yaml --share any" for gpu in range(3)]
    assert drawn == "all: compare mine.yaml"
