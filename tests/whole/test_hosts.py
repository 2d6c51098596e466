"""Three hosts, each a network namespace, train as one process does; lost, slow, killed and different ones are named, never waited for."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hosts import BIN, Hosts, Job, why_not
from places import ROOT
from safetensors.torch import load_file
from waiting import until

from stages.artifacts import Checkpoint, Dataset
from stages.config import ExportConfig
from stages.measurement.torch_accuracy import evaluate
from stages.training.checkpoint import load_detector

pytestmark = pytest.mark.slow

EPOCHS = 10
SGD = "{epochs: %d, batch_size: 6, optimizer: sgd, learning_rate: 2.0e-3, momentum: 0.9, warmup_steps: 2, ema: 0.9, workers: 0}"
OPTIONS = (
    *(f"{network}.detector.norm=batch" for network in ("teacher", "student")),
    *(f"teacher.train={SGD % 3}", f"student.train={SGD % EPOCHS}", "data.train_images=6", "data.val_images=7"),
    *("baseline.equal=steps", "device=cpu"),
)
"""One step an epoch, so that curves.csv has the losses of every step; norms that see the images of all hosts."""
TOLERANCE = 1e-5
SILENT, LOST = 5, 20
QUICK = f"""
import sys
from pipeline.store import peers
peers.SILENT_SECONDS, peers.LOST_SECONDS = {SILENT}, {LOST}
from pipeline.cli import main
sys.exit(main())
"""
"""The command, less patient."""


def command(runs: Path, *more: str, options: Sequence[str] = OPTIONS) -> list[str]:
    settings = [word for option in options for word in ("--set", option)]
    return [str(ROOT / "examples" / "small.yaml"), "--runs", str(runs), "--until", "distill", *settings, *more]


def run(*words: str) -> list[str]:
    return [str(BIN / "edgedistill"), "run", *words]


def quick(*words: str) -> list[str]:
    return [sys.executable, "-P", "-c", QUICK, "run", *words]


def made(runs: Path, stage: str) -> Path:
    (folder,) = runs.glob(f".store/{stage}-*")
    return folder


def curves(runs: Path, stage: str) -> list[dict[str, float]]:
    with (made(runs, stage) / "curves.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if name != "images_per_s" and value} for row in csv.DictReader(file)]


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts("a", "b", "c") as three:
        yield three


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of three hosts that nothing disturbed."""
    runs = tmp_path_factory.mktemp("together")
    with Hosts("a", "b", "c") as three:
        for job in three.torchrun(run(*command(runs))):
            assert job.end(300) == 0, job.text[-3000:]
    return runs


def without(runs: Path, stage: str, out: Path) -> Path:
    """A copy of the results in which a stage has not run."""
    shutil.copytree(runs, out)
    shutil.rmtree(made(out, stage))
    return out


def test_three_hosts_give_the_losses_of_one_process_step_for_step(together: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CI": "true", "PYTHONPATH": str(ROOT)}
    subprocess.run(run(*command(tmp_path)), env=environment, check=True, capture_output=True)
    for stage in ("train_teacher", "train_baseline", "distill"):
        one, three = curves(tmp_path, stage), curves(together, stage)
        assert len(one) == len(three) == (3 if stage == "train_teacher" else EPOCHS)
        for step, (expected, got) in enumerate(zip(one, three, strict=True)):
            for name, value in expected.items():
                if not name.startswith("share/"):  # each host takes the norms over its own images
                    close = 10 * TOLERANCE if name == "grad_norm" else TOLERANCE
                    assert got[name] == pytest.approx(value, rel=close, abs=1e-7), f"{stage} step {step} {name}"


def test_three_hosts_count_every_image_once_when_they_judge(together: Path, tmp_path: Path) -> None:
    """Seven images, which three do not divide: one process finds the same with the same weights."""
    checkpoint, dataset = Checkpoint(made(together, "distill")), Dataset(made(together, "prepare"))
    export = ExportConfig(candidates=50, max_detections=20)
    accuracy = evaluate(tmp_path, load_detector(checkpoint), dataset, "val", export)
    assert accuracy == checkpoint.facts.accuracy
    assert accuracy.num_images == 7
    again, shared = (json.loads((folder / "detections.json").read_text(encoding="utf-8")) for folder in (tmp_path, checkpoint.root))
    assert [one["image_id"] for one in shared] == [one["image_id"] for one in again]
    assert [one["score"] for one in shared] == pytest.approx([one["score"] for one in again], abs=1e-5)


def test_a_killed_process_is_replaced_and_the_weights_are_as_if_undisturbed(hosts: Hosts, together: Path, tmp_path: Path) -> None:
    runs = without(together, "distill", tmp_path / "runs")
    jobs = hosts.torchrun(run(*command(runs)), restarts=3)
    until(lambda: list(runs.glob(".store/.distill-*.partial/resume")), "the first epoch to be saved", 120)
    os.kill(jobs[2].workers()[0], signal.SIGKILL)
    assert [job.end(300) for job in jobs] == [0, 0, 0], "\n=====\n".join(job.text[-3000:] for job in jobs)
    assert "continues where it stopped" in "".join(job.text for job in jobs)
    assert [row["epoch"] for row in curves(runs, "distill")] == list(range(1, EPOCHS + 1))
    after, before = (load_file(str(made(folder, "distill") / "weights.safetensors")) for folder in (runs, together))
    for name, tensor in before.items():
        assert after[name].sub(tensor).abs().max() <= 1e-6 * max(1.0, float(tensor.abs().max())), name


def refused(jobs: Sequence[Job], line: str) -> None:
    """All end with the same line, and none has trained."""
    for job in jobs:
        assert job.end(120) != 0
        said = [one for one in job.lines if one.startswith("edgedistill: ")]
        assert len(said) == 1, job.text[-3000:]
        assert line in said[0]
        assert "Traceback" not in job.text.partition("edgedistill: ")[0]


def test_a_host_with_another_version_of_the_code_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    checkout = tmp_path / "other"
    for package in ("edgedistill", "pipeline", "stages", "deploy"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (checkout / "stages" / "train.py").open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    jobs = hosts.torchrun(run(*command(tmp_path / "runs")), b={"PYTHONPATH": str(checkout)})
    refused(
        jobs, "process 1 on b has code another version, process 0 on a has code of stages/train.py; install the same version on all hosts"
    )
    assert not list((tmp_path / "runs").glob(".store/*_teacher*"))


def test_a_host_with_other_data_is_refused(hosts: Hosts, together: Path, tmp_path: Path) -> None:
    """The data at the same path, but of one host."""
    root, other = tmp_path / "data", tmp_path / "elsewhere"
    coco_of(made(together, "prepare"), root)
    shutil.copytree(root, other)
    file = other / "annotations" / "instances_train.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["annotations"].pop()
    file.write_text(json.dumps(content), encoding="utf-8")
    data = f"data={{dataset: coco, root: {root}, preprocessing: {{height: 64, width: 64}}}}"
    jobs = hosts.torchrun(
        run(*command(tmp_path / "runs", options=(*OPTIONS[:4], data, *OPTIONS[6:]))), c={"before": f"mount --bind {other} {root}"}
    )
    refused(jobs, "prepare: process 2 on c would do something else than process 0 on a")
    assert not list((tmp_path / "runs").glob(".store/prepare-*"))


def test_a_host_without_the_data_ends_the_others_with_its_reason(hosts: Hosts, together: Path, tmp_path: Path) -> None:
    root, empty = tmp_path / "data", tmp_path / "empty"
    coco_of(made(together, "prepare"), root)
    empty.mkdir()
    data = f"data={{dataset: coco, root: {root}, preprocessing: {{height: 64, width: 64}}}}"
    options = (*OPTIONS[:4], data, *OPTIONS[6:])
    jobs = hosts.torchrun(run(*command(tmp_path / "runs", options=options)), c={"before": f"mount --bind {empty} {root}"})
    refused(jobs[:2], "process 2 on c ended: ")
    refused(jobs[2:], str(root))


def coco_of(prepared: Path, root: Path) -> None:
    """The splits of prepared data as a folder in COCO's layout."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        shutil.copytree(prepared / "images" / split, root / split)
        shutil.copy(prepared / "annotations" / f"{split}.json", root / "annotations" / f"instances_{split}.json")


def test_hosts_without_a_shared_results_folder_are_refused(hosts: Hosts, tmp_path: Path) -> None:
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    runs.mkdir()
    elsewhere.mkdir()
    jobs = hosts.torchrun(run(*command(runs)), b={"before": f"mount --bind {elsewhere} {runs}"})
    refused(jobs, f"process 1 on b does not see what process 0 on a writes to {runs}; --runs must be the same folder for all hosts")


def training(hosts: Hosts, together: Path, runs: Path) -> list[Job]:
    """Three hosts that train the baseline for long, once the first epoch is saved."""
    longer = tuple(one.replace(f"epochs: {EPOCHS},", "epochs: 400,") for one in OPTIONS)
    shutil.copytree(together, runs)
    jobs = hosts.torchrun(quick(*command(runs, options=longer)))
    until(lambda: list(runs.glob(".store/.train_baseline-*.partial/resume")), "the first epoch to be saved", 120)
    return jobs


def test_a_host_that_stands_still_is_named_and_may_come_back(hosts: Hosts, together: Path, tmp_path: Path) -> None:
    jobs = training(hosts, together, tmp_path / "runs")
    (worker,) = jobs[1].workers()
    os.kill(worker, signal.SIGSTOP)
    jobs[0].until("process 1 on b has not been heard from for")
    os.kill(worker, signal.SIGCONT)
    jobs[0].until("process 1 on b is heard again after")
    jobs[0].until("baseline: ")
    assert [job.process.poll() for job in jobs] == [None, None, None]
    text = "".join(job.text for job in jobs)
    assert text.count("has not been heard from") == 1, "only one process speaks"


def test_a_lost_host_ends_the_others_with_one_line(hosts: Hosts, together: Path, tmp_path: Path) -> None:
    jobs = training(hosts, together, tmp_path / "runs")
    hosts.cut("c")
    began = time.monotonic()
    for job in jobs[:2]:
        job.until("the training cannot go on: process 2 on c has not been heard from for", 3 * LOST)
        assert len([line for line in job.lines if line.startswith("edgedistill: ")]) == 1
    assert time.monotonic() - began < 3 * LOST
    assert "process 2 on c has not been heard from" in jobs[0].text.partition("edgedistill: ")[0]


def test_the_time_of_a_step_is_predicted_at_three_bandwidths() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "hosts.py"), "--rounds", "3", "--steps", "5"]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(done.stdout.splitlines()[-1])
    ratios = {name: one["ratio"] for name, one in found.items() if name.endswith("Mbit/s")}
    assert len(ratios) == 3
    assert all(0.85 < ratio < 1.15 for ratio in ratios.values()), found


def test_steps_that_do_not_end_are_explained(hosts: Hosts, together: Path, tmp_path: Path) -> None:
    """A network so slow that a step takes longer than anyone should wait without a word."""
    jobs = training(hosts, together, tmp_path / "runs")
    hosts.shape("tbf", "rate", "150kbit", "burst", "16kb", "latency", "500ms")
    jobs[0].until("baseline: no step for", 90)
    assert "process 1 on b computes, or waits for others" in jobs[0].text
