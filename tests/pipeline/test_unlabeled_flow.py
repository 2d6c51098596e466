"""Images without labels in the flow: whoever learns from them, the terminal and the summary say what speaks against them."""

import json
from pathlib import Path
from typing import Any

import flow_samples
import pytest

from pipeline import cli, flow
from pipeline.store.past import remembered
from stages.artifacts import Checkpoint, Dataset, ImagePool, PseudoLabels
from stages.config import DataConfig, ExportConfig, UnlabelledConfig
from stages.facts import write_facts
from stages.stage import stage
from stages.unlabeled_facts import PoolFacts, PseudoFacts

WARNING = "97% of the unlabeled images are unlike the labeled ones"
NAMES = ("train_teacher", "label")


@stage(version=1)
def collect(out: Path, config: DataConfig, dataset: Dataset) -> ImagePool:
    """Four images that nobody looks at."""
    write_facts(out, PoolFacts(num_images=4, sha256="0"))
    return ImagePool(out)


@stage(version=1)
def label(
    out: Path,
    config: UnlabelledConfig,
    device: str,
    split: str,
    dataset: Dataset,
    pool: ImagePool,
    teacher: Checkpoint,
    export: ExportConfig,
) -> PseudoLabels:
    """Nothing is found, and the images are of something else."""
    write_facts(out, PseudoFacts(split=split, num_images=4, empty=4, classes={}, unlike=0.97, warnings=(WARNING,)))
    (out / PseudoLabels.IMAGES).write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    return PseudoLabels(out)


@pytest.fixture(autouse=True)
def no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flow_samples.replace_training(monkeypatch)
    for one in (collect, label):
        monkeypatch.setattr(flow, one.__name__, one)
    Path("pipeline.yaml").write_text(flow_samples.CONFIG)


def run(*settings: str) -> dict[str, Any]:
    """The summary of a run with these settings."""
    every = ("targets=[{name: cpu, runtime: ort}]", "baseline.equal=steps", *settings)
    assert cli.main(["run", *(word for one in every for word in ("--set", one))]) == 0
    summary: dict[str, Any] = json.loads(Path("runs/small/summary.json").read_text(encoding="utf-8"))
    return summary


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        (["distill.unlabelled={}"], ["train_teacher", "label"]),
        (["teacher.unlabelled={}"], ["train_teacher", "label"]),
        (["teacher.unlabelled={}", "distill.unlabelled={}"], ["train_teacher", "label"]),
        (["teacher.unlabelled={labels: first}"], ["train_teacher:first", "label:first", "train_teacher"]),
        (
            ["teacher.unlabelled={labels: first}", "distill.unlabelled={}"],
            ["train_teacher:first", "label:first", "train_teacher", "label"],
        ),
    ],
)
def test_images_of_something_else_are_warned_of_whoever_learns_from_them(
    settings: list[str], asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run("data.unlabelled=photos", *settings)
    assert f"! unlabelled: {WARNING}\n" in capsys.readouterr().out
    assert summary["data"]["unlabelled"]["labels"]["warnings"] == [WARNING]
    assert [one["instance"] for one in summary["stages"] if one["instance"].partition(":")[0] in NAMES] == asked


@pytest.mark.parametrize(
    ("until", "student", "last"),
    [("train_teacher", False, "train_teacher"), ("label", False, "label:first"), ("label", True, "label")],
)
def test_until_a_stage_that_runs_twice_stops_after_the_second(until: str, student: bool, last: str) -> None:
    settings = ["data.unlabelled=photos", "teacher.unlabelled={labels: first}", *(["distill.unlabelled={}"] if student else [])]
    command = ["run", "--until", until, *(word for one in settings for word in ("--set", one))]
    assert cli.main(command) == 0
    assert list(remembered(Path("runs/small/lock.json")))[-1] == last


def test_at_ratio_0_everything_is_reused_from_the_run_without_the_sections() -> None:
    run()
    summary = run("data.unlabelled=photos", "teacher.unlabelled={ratio: 0}", "distill.unlabelled={ratio: 0}")
    assert all(one["reused"] for one in summary["stages"])
    assert summary["data"]["unlabelled"] is None
