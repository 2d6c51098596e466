"""What reading the data changed is printed by every command that uses it, and is in summary.json; half of it in doubt ends a run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import artifact_samples
import flow_samples
import numpy as np
import pytest
from PIL import Image

from deploy.errors import DataError
from pipeline import flow
from pipeline.arena import trainings
from pipeline.cli import main
from stages.artifacts import Checkpoint, Dataset, ImagePool, PseudoLabels
from stages.config import DataConfig, ExportConfig, TeacherConfig
from stages.facts import write_facts
from stages.notes import Note
from stages.stage import stage

LOST = Note(kind="missing image", action="left out", unit="images", split="train", count=2, total=8, examples=("7.png", "8.png"))
MENDED = Note(
    kind="box written in an unusual form", action="repaired", unit="boxes", split="val", count=1, total=9, examples=("bbox '1 2'",)
)
LINES = ["data: train: left out: missing image: 2 of 8 images, first: 7.png", f"data: {MENDED}"]


@stage(version=1)
def prepare(out: Path, config: DataConfig) -> Dataset:
    """Images of colored cells, with two notes."""
    made = artifact_samples.dataset(out)
    write_facts(out, made.facts.model_copy(update={"notes": (MENDED, LOST)}))
    return made


@pytest.fixture(autouse=True)
def _noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flow_samples.replace_training(monkeypatch)
    monkeypatch.setattr(flow, "prepare", prepare)
    Path("pipeline.yaml").write_text(flow_samples.CONFIG, encoding="utf-8")


def said(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("data: ")]


def test_run_prints_them_again_if_everything_is_reused(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["run"]) == 0
        printed = capsys.readouterr().out
        assert said(printed) == LINES
        assert f"! {LINES[0]}; see report.html" in printed
    summary = json.loads(Path("runs/small/summary.json").read_bytes())
    assert [Note.model_validate(one) for one in summary["data"]["notes"]] == [MENDED, LOST]


def test_run_with_json_prints_them_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json"]) == 0
    printed = capsys.readouterr()
    assert said(printed.err) == LINES
    assert len(json.loads(printed.out)["data"]["notes"]) == 2


def test_run_says_how_many_objects_no_engine_can_find(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--set", "export.max_detections=1"]) == 0
    beyond = [line for line in said(capsys.readouterr().out) if "no engine can find" in line]
    assert [line.split(":")[1].strip() for line in beyond] == ["train", "val"]
    kinds = [one["kind"] for one in json.loads(Path("runs/small/summary.json").read_bytes())["data"]["notes"]]
    assert kinds.count("objects that no engine can find") == 2


def test_a_dry_run_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dry-run"]) == 0
    assert said(capsys.readouterr().out) == []


def test_ablate_prints_them_before_it_trains(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    @stage(version=1)
    def train_teacher(
        out: Path,
        config: TeacherConfig,
        seed: int,
        device: str,
        split: str,
        dataset: Dataset,
        export: ExportConfig,
        pool: ImagePool | None,
        classes: Mapping[str, str] | None,
        labels: PseudoLabels | None,
    ) -> Checkpoint:
        raise DataError("far enough")

    monkeypatch.setattr(trainings, "train_teacher", train_teacher)
    assert main(["ablate", "pipeline.yaml", "--seeds", "1"]) == 3
    printed = capsys.readouterr()
    assert said(printed.out) == LINES
    assert "far enough" in printed.err


COUNT = 12


def coco(root: Path) -> None:
    """Train and val with three objects in each of twelve images of 100 x 80 px."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        images, rows = [], []
        for n in range(COUNT):
            pixels = np.random.default_rng(n).integers(0, 255, (80, 100, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / f"{n}.png")
            images.append({"id": n, "file_name": f"{n}.png", "width": 100, "height": 80})
            rows += [{"id": 3 * n + k, "image_id": n, "category_id": 1, "bbox": [5 + n + 20 * k, 4 + n, 20, 25]} for k in range(3)]
        content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cell"}]}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def half_missing(root: Path) -> None:
    for n in range(0, COUNT, 2):
        (root / "train" / f"{n}.png").unlink()


def half(change: Callable[[list[float]], list[float]]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / "annotations/instances_train.json"
        content = json.loads(path.read_bytes())
        for row in content["annotations"]:
            if row["image_id"] % 2:
                row["bbox"] = change(row["bbox"])
        path.write_text(json.dumps(content), encoding="utf-8")

    return spoil


HALVES = {
    "missing": (half_missing, "6 of 12 images are left out or assumed (missing image 6)"),
    "fractions": (half(lambda box: [box[0] / 100, box[1] / 80, box[2] / 100, box[3] / 80]), "18 of 36 boxes are left out or assumed"),
    "corners": (
        half(lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]),
        "boxes are left out or assumed (box that would fit its image as corners",
    ),
    "in px of a larger image": (half(lambda box: [4 * value for value in box]), "boxes are left out or assumed"),
}


@pytest.mark.parametrize("name", HALVES)
def test_a_run_stops_if_half_of_the_data_is_missing_or_in_another_unit(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, words = HALVES[name]
    coco(tmp_path / "set")
    spoil(tmp_path / "set")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    data = json.dumps({"dataset": "coco", "root": str(tmp_path / "set")})
    assert main(["run", "--until", "prepare", "--set", f"data={data}"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert words in err
