"""The ready files that start one training on several nodes: torchrun and the command take every option in them."""

import os
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

from pipeline import cli

SLURM, KUBERNETES = (ROOT / "examples" / name for name in ("train-slurm.sh", "train-kubernetes.yml"))


def torchrun(words: list[str]) -> Any:
    """What torchrun makes of a call; refuses an option that it does not have."""
    run = pytest.importorskip("torch.distributed.run")
    return run.get_args_parser().parse_args(words)


def test_slurm_starts_torchrun_once_per_node_and_the_command_in_it(tmp_path: Path) -> None:
    for name, script in {"srun": 'echo "$*" > call.txt', "scontrol": "printf 'node1\\nnode2\\n'"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(stat.S_IRWXU)
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_ID": "7"}
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **job}
    subprocess.run(["bash", str(SLURM), "mine.yaml", "/shared/runs"], cwd=tmp_path, env=environment, check=True)
    launcher, *words = shlex.split((tmp_path / "call.txt").read_text(encoding="utf-8"))
    given = torchrun(words)
    assert (launcher, given.nnodes, given.nproc_per_node, given.no_python) == ("torchrun", "2", "8", True)
    assert (given.rdzv_endpoint, given.rdzv_backend, given.max_restarts) == ("node1:29500", "c10d", 3)
    parsed = cli.parser().parse_args(given.training_script_args)
    assert (given.training_script, parsed.command, parsed.config, parsed.runs) == ("edgedistill", "run", "mine.yaml", "/shared/runs")


def test_slurm_wants_both_names() -> None:
    for words in ([], ["mine.yaml"]):
        done = subprocess.run(["bash", str(SLURM), *words], capture_output=True, text=True, check=False)
        assert done.returncode
        assert "name a" in done.stderr


def test_the_train_job_calls_the_command_on_a_shared_volume() -> None:
    job: Any = yaml.safe_load(KUBERNETES.read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["spec"]["runtimeRef"]["name"] == "torch-distributed"
    launcher, *words = job["spec"]["trainer"]["command"]
    given = torchrun(words)
    parsed = cli.parser().parse_args(given.training_script_args)
    assert (launcher, given.no_python, given.training_script, parsed.command) == ("torchrun", True, "edgedistill", "run")
    (patch,) = job["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert all(path.startswith(f"{mounts['shared']}/") for path in (parsed.config, parsed.runs))
