"""The section robustness from the file to summary, history and bundle; networks are made up, engines are real."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_samples
import pytest
import robust_samples

from deploy.bundles.bundle import Bundle
from pipeline import cli, flow
from stages.artifacts import Checkpoint, Dataset, OnnxModel
from stages.config import DataConfig, ExportConfig
from stages.stage import stage

Run = Callable[..., tuple[int, Any]]
ASKED = """\
robustness:
  splits: [shifted]
  groups: {time: {pattern: "^(day|night)"}}
  min_images: 5
"""
GATES = """\
  - {name: elsewhere, metric: map@shifted, min: 0.5}
  - {name: as good, metric: map@shifted, max_drop: 0.01, versus: baseline}
  - {name: every group, metric: map_worst_group, max_drop: 0.01, versus: float}
"""


@stage(version=1)
def prepare(out: Path, config: DataConfig) -> Dataset:
    """Images of cells on gray."""
    return robust_samples.dataset(out, num_images=48)


@stage(version=1)
def export(out: Path, config: ExportConfig, student: Checkpoint) -> OnnxModel:
    """A graph that finds them, whatever the network."""
    return robust_samples.exported(out)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`edgedistill <command> --json` in a folder with a pipeline.yaml: exit code and answer."""
    monkeypatch.chdir(tmp_path)
    replace(monkeypatch)

    def command(*arguments: str) -> tuple[int, Any]:
        code = cli.main([*arguments, "--json"])
        shown = capsys.readouterr()
        return code, json.loads(shown.out) if shown.out else shown.err

    return command


def replace(monkeypatch: pytest.MonkeyPatch) -> None:
    flow_samples.replace_training(monkeypatch)
    for one in (prepare, export):
        monkeypatch.setattr(flow, one.__name__, one)
    Path("pipeline.yaml").write_text(flow_samples.CONFIG + GATES + ASKED)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder after a run, and what the run printed."""
    folder = tmp_path_factory.mktemp("robust")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        replace(patch)
        assert cli.main(["run"]) == 0
    return folder, printed.getvalue()


def test_all_engines_are_judged_on_the_other_split(whole: tuple[Path, str]) -> None:
    summary = json.loads((whole[0] / "runs/small/summary.json").read_text())
    ran = [one["instance"] for one in summary["stages"]]
    names = ("cpu", "gpu", "teacher", "baseline", "float")
    assert [one for one in ran if "@" in one] == [f"validate:{name}@shifted" for name in names]
    assert ran[ran.index("assess") - 1] == "validate:float@shifted"
    assert "stress" not in ran
    found = summary["robustness"]
    assert list(found["engines"]) == ["cpu", "teacher", "baseline", "float"]
    assert found["engines"]["cpu"]["values"] == {"map@shifted": pytest.approx(1), "map_worst_group": pytest.approx(1)}
    assert [(one["metric"], one["gain"], one["low"], one["high"]) for one in found["leads"]] == [
        ("map@shifted", 0, 0, 0),
        ("map_worst_group", 0, 0, 0),
    ]


def test_terminal_history_and_bundle_say_so(whole: tuple[Path, str]) -> None:
    folder, printed = whole
    assert "robustness  map@shifted  map_worst_group" in printed
    assert "map@SPLIT: mAP on a split that was not validated on: shifted (48 images)" in printed
    rows = (folder / "runs/small/history.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["targets"]["cpu"]["map@shifted"] == pytest.approx(1)
    bundle = Bundle.load(folder / "runs/small/bundle/cpu")
    assert bundle.manifest.robustness is not None
    assert bundle.manifest.robustness.splits["shifted"].num_images == 48
    card = (bundle.root / "README.md").read_text()
    assert "## Robustness" in card
    assert "| mAP, split shifted | 48 | 1 |" in card
    assert "| mAP, time: night | 24 | 1 |" in card


def test_gates_on_it_are_judged(whole: tuple[Path, str]) -> None:
    gates = json.loads((whole[0] / "runs/small/summary.json").read_text())["gates"]
    verdicts = {(one["name"], one["target"]): one["verdict"] for one in gates}
    assert {verdicts[name, "cpu"] for name in ("elsewhere", "as good", "every group")} == {"pass"}
    assert {verdicts[name, "gpu"] for name in ("elsewhere", "as good", "every group")} == {"unmeasured"}
    limit = next(one["limit"] for one in gates if one["name"] == "as good")
    assert limit == "falls <= 0.01 from baseline at equal cost"


def test_nothing_runs_twice_and_other_groups_judge_nothing_again(whole: tuple[Path, str], run: Run, tmp_path: Path) -> None:
    shutil.copytree(whole[0] / "runs", tmp_path / "runs")
    _, again = run("run")
    assert [one["instance"] for one in again["stages"] if not one["reused"]] == []
    _, plan = run("run", "--dry-run", "--set", "robustness.min_images=6")
    stale = {one["instance"] for one in plan["stages"] if not one["reused"]}
    assert stale == {"assess", "gate:cpu", "gate:gpu", "package:cpu", "package:gpu"}


@pytest.mark.parametrize(
    ("setting", "code", "words"),
    [
        ("robustness.splits=[nigth]", 2, "map@shifted needs robustness.splits to list shifted, and it lists nigth"),
        ("robustness.splits=[shifted, nigth]", 3, "no split 'nigth'"),
        ("robustness.splits=[shifted, val]", 2, "val is validated on already; leave it out here"),
        ("robustness.corruptions=quik", 2, "quick"),
        ("robustness.groups={}", 2, "map_worst_group needs robustness.groups"),
    ],
)
def test_bad_input_ends_before_anything_is_trained(run: Run, setting: str, code: int, words: str) -> None:
    found, said = run("run", "--set", setting)
    assert found == code
    message = said if isinstance(said, str) else json.dumps(said)
    assert words in message
    assert not list(Path("runs").rglob("train_*"))


@pytest.mark.parametrize("stage_name", ["stress", "assess"])
def test_a_stage_that_was_not_asked_for_cannot_be_named(run: Run, stage_name: str) -> None:
    nothing = ("--set", "robustness={}", "--set", "gates=[]")
    code, said = run("run", "--until", stage_name, *nothing)
    assert code == 2
    assert f"stage '{stage_name}' runs only if it is asked for" in json.dumps(said)
