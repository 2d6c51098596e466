"""Bad input through the real command line: one line on stderr, the documented exit code, and nothing written or lost."""

import copy
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import artifact_samples
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from pipeline import cli

DETECTOR = {"name": "fcos", "backbone": "resnet10", "width": 8, "norm": "group", "fpn_channels": 32, "strides": [8], "head_convs": 1}
TRAIN = {"epochs": 1, "batch_size": 2, "workers": 0}
Coco = dict[str, Any]


def coco(split: str) -> Coco:
    """Three images, the last one empty."""
    return {
        "images": [{"id": i, "file_name": f"{'' if split == 'train' else 'val-'}{i}.png", "width": 64, "height": 64} for i in (1, 2, 3)],
        "annotations": [{"id": i, "image_id": i, "category_id": 7, "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0} for i in (1, 2)],
        "categories": [{"id": 7, "name": "thing"}],
    }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a sound data set and configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "annotations").mkdir()
    random = np.random.default_rng(0)
    for name in ("1", "2", "3", "val-1", "val-2", "val-3"):
        Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"data/images/{name}.png")
    for split in ("train", "val"):
        (tmp_path / f"data/annotations/instances_{split}.json").write_text(json.dumps(coco(split)))
    config = {
        "name": "refused",
        "data": {"dataset": "coco", "root": "data", "preprocessing": {"height": 64, "width": 64}},
        "teacher": {"detector": DETECTOR, "train": TRAIN},
        "student": {"detector": DETECTOR, "train": TRAIN},
        "distill": {"losses": [{"name": "attention"}]},
        "targets": [{"name": "cpu", "runtime": "ort"}],
        "gates": [{"metric": "map", "min": 0}],
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def content(folder: Path) -> dict[str, str]:
    """Every file but the store's locks and scratch, by its hash."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".store" not in path.parts)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and the one line; the progress of stages before it goes to stderr too, each line with its stage's name."""
    code = cli.main(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = [line for line in captured.err.splitlines() if line.startswith("edgedistill: ")]
    assert len(lines) == 1, captured.err
    assert captured.err.rstrip().endswith(lines[0]), captured.err
    return code, lines[0]


SETTINGS = [
    ("studnt.train.epochs=1", 2, "did you mean student"),
    ("seed=[1]", 2, "seed"),
    ("student.train.epochs=-1", 2, "epochs"),
    ("student.train.epochs='2'", 2, "epochs"),
    ("student.train.learning_rate=.nan", 2, "learning_rate"),
    ("student.train.optimizer=adam", 2, "adamw"),
    ("student.detector.name=fcs", 2, "did you mean fcos"),
    ("student.detector.bakbone=resnet18", 2, "did you mean backbone"),
    ("student.detector.width=9", 2, "width"),
    ("student.detector.strides=[16]", 2, "at least one stride in common"),
    ("student.detector.strides=[16,8]", 2, "ascending"),
    ("distill.losses.0.name=atention", 2, "did you mean attention"),
    ("distill.losses.0.temprature=1", 2, "did you mean temperature"),
    ("distill.losses.4.weight=1", 2, "losses"),
    ("distill.losses=[]", 2, "losses"),
    ("distill.losses=[{name: attention},{name: attention}]", 2, "attention"),
    ("distill.losses.0.strides=[32]", 2, "distill.losses: strides (32,) are not all levels of both detectors; choose from (8,)"),
    ("data.dataset=coko", 2, "did you mean coco"),
    ("data.rot=data", 2, "did you mean root"),
    ("data.preprocessing.height=50", 2, "height"),
    ("export.opset=99", 2, "opset"),
    ("targets.0.runtime=openvno", 2, "choose from auto, litert, ncnn, openvino, ort, trt"),
    ("targets.0.precision=int4", 2, "precision"),
    (
        "targets.0={name: a, runtime: ort, precision: int8, calibration_split: trian}",
        3,
        "targets.0.calibration_split: no split 'trian' (did you mean train?): the data has train, val",
    ),
    (
        "targets.0={name: a, runtime: ort, precision: int8, int8: {finetune: true, losses: [{name: attention}, {name: attention}]}}",
        2,
        "targets.0.int8.losses: attention is listed 2 times; list each loss once",
    ),
    (
        "targets.0={name: a, runtime: ort, precision: int8, int8: {finetune: true, losses: [{name: attention, strides: [32]}]}}",
        2,
        "targets.0.int8.losses: strides (32,) are not all levels of both detectors; choose from (8,)",
    ),
    (
        "targets.0={name: a, runtime: ort, precision: int8, int8: {finetune: true, losses: [{name: cross_head, after: 4}]}}",
        2,
        "targets.0.int8.losses: cross_head: after: 4 leaves",
    ),
    ("targets.0={name: a, runtime: trt, best_batch: 9}", 2, "targets.0: trt: best_batch 9 is above max_batch 8; raise max_batch"),
    ("targets.0={name: a, runtime: auto, best_batch: 9}", 2, "best_batch 9 is above max_batch 8; raise max_batch"),
    (
        "targets.0={name: a, runtime: trt_rtx, compute_capability: RTX 4090}",
        2,
        "got RTX 4090, allowed: current, or major and",
    ),
    ("targets=[{name: a, runtime: ort},{name: a, runtime: ort}]", 2, "a"),
    ("gates.0.metric=mapp", 2, "did you mean map"),
    ("gates.0.target=gpu", 2, "no target 'gpu'"),
    ("gates=[{metric: map/digit_1, min: 0}]", 3, "gates.0.metric: no class 'digit_1'"),
    ("gates=[{metric: map, min: 0.5, max: 0.3}]", 2, "min 0.5 is above max 0.3, so no number passes; lower min or raise max"),
    ("gates=[{metric: map, max_drop: 5 percent}]", 2, "'5 percent' is neither a number nor a share such as 5%"),
    ("gates=[{metric: map, max_drop: -1}]", 2, "allowed: 0 or more"),
    ("gates=[{metric: map, max_drop: 1, min: 0}]", 2, "a separate gate for each"),
    ("gates=[{metric: map, max_drop: 1, max_increase: 1}]", 2, "a separate gate for each"),
    ("gates=[{metric: mar_1, max_drop: 1}]", 2, "choose from map"),
    ("gates=[{metric: map, min: 0, versus: teacher}]", 2, "require max_drop or max_increase"),
    ("gates.0.min=null", 2, "min, max or both"),
    ("validation.split=tset", 3, "the data has train, val"),
    ("device=cuda", 2, "no CUDA GPU on this machine"),
    ("data.root=elsewhere", 3, "elsewhere"),
    ("teacher.weights=nowhere.safetensors", 4, "nowhere.safetensors"),
]


@pytest.mark.parametrize(("setting", "code", "words"), SETTINGS, ids=[setting for setting, _, _ in SETTINGS])
def test_a_setting_is_refused(place: Path, capsys: pytest.CaptureFixture[str], setting: str, code: int, words: str) -> None:
    if setting == "device=cuda" and torch.cuda.is_available():
        pytest.skip("CUDA is here")
    got, line = refused(capsys, "run", "--until", "distill", "--set", setting)
    assert (got, words in line) == (code, True), line
    assert not list(place.glob("runs/*/summary.json"))


def with_categories(data: Coco) -> None:
    data["categories"] = [{"id": 7, "name": "other"}]


def first(data: Coco, **changes: Any) -> None:
    data["annotations"][0].update(changes)


DATA: list[tuple[str, Callable[[Coco], object], str]] = [
    ("an annotation without its image", lambda d: first(d, image_id=99), "99"),
    ("an unknown category", lambda d: first(d, category_id=99), "99"),
    ("an image id twice", lambda d: d["images"][0].update(id=2), "2"),
    ("no image", lambda d: (d["images"].clear(), d["annotations"].clear()), "train"),
    ("no list of images", lambda d: d.pop("images"), "images"),
    ("other classes than val", with_categories, "list it there too"),
]


@pytest.mark.parametrize(("spoil", "words"), [case[1:] for case in DATA], ids=[case[0] for case in DATA])
def test_annotations_are_refused(place: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Coco], object], words: str) -> None:
    data = copy.deepcopy(coco("train"))
    spoil(data)
    (place / "data/annotations/instances_train.json").write_text(json.dumps(data))
    code, line = refused(capsys, "run", "--until", "prepare")
    assert (code, words in line) == (3, True), line
    assert not list(place.glob("runs/.store/prepare-*"))


def test_data_without_a_box_is_refused_where_something_learns_from_boxes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "data/annotations/instances_train.json").write_text(json.dumps({**coco("train"), "annotations": []}))
    code, line = refused(capsys, "run", "--until", "prepare")
    assert (code, "train: no usable box to learn from" in line) == (3, True), line


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null"])
def test_annotations_that_are_no_coco_file_are_refused(place: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (place / "data/annotations/instances_train.json").write_text(text)
    code, line = refused(capsys, "run", "--until", "prepare")
    assert (code, "instances_train.json" in line) == (3, True), line


@pytest.mark.parametrize("box", [[8, 8, 0, 30], [1, 2, 3], [8, 8, float("nan"), 30], [900, 8, 3, 3]], ids=str)
def test_a_degenerate_box_is_left_out_and_under_strict_refused(place: Path, capsys: pytest.CaptureFixture[str], box: list[float]) -> None:
    data = copy.deepcopy(coco("train"))
    first(data, bbox=box)
    (place / "data/annotations/instances_train.json").write_text(json.dumps(data))
    code, line = refused(capsys, "run", "--until", "prepare")
    assert (code, line.endswith("set data.max_doubtful to 0.5 to go on")) == (3, True), line
    told = ("run", "--until", "prepare", "--set", "data.max_doubtful=0.5")
    for _ in range(2):  # made, then reused: the note is printed both times
        assert cli.main([*told]) == 0
        (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data: ")]
        assert note.startswith("data: train: left out: ")
        assert ": 1 of 2 boxes, first: annotation 1 of 1.png, bbox " in note
    (facts,) = place.glob("runs/.store/prepare-*/artifact.json")
    assert [one["count"] for one in json.loads(facts.read_text())["notes"]] == [1]
    code, line = refused(capsys, "run", "--until", "prepare", "--set", "data.strict=true")
    assert (code, "strict" in line) == (3, True), line


FILES = [
    ("a missing configuration", ["run", "none.yaml"], 2, "none.yaml"),
    ("a folder as configuration", ["run", "data"], 2, "data"),
    ("an unknown command", ["runn"], 2, "runn"),
    ("an unknown option", ["run", "--untill", "export"], 2, "--help"),
    ("an unknown stage", ["run", "--until", "exprot"], 2, "did you mean export"),
    ("an unknown stage to force", ["run", "--force", "optimize:nope"], 2, "optimize:nope"),
    ("a bundle that is none", ["gate", "data"], 4, "data"),
    ("nothing measured", ["gate"], 12, "edgedistill run"),
    ("a file where results go", ["run", "--runs", "pipeline.yaml"], 4, "pipeline.yaml"),
]


@pytest.mark.parametrize(("arguments", "code", "words"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_command_is_refused(place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str) -> None:
    before = content(place)
    got, line = refused(capsys, *arguments)
    assert (got, words in line) == (code, True), line
    assert {path: hashed for path, hashed in content(place).items() if path in before} == before


@pytest.mark.parametrize("text", ["name: [", "- 1", "name: a\nname: b", "extends: pipeline.yaml", "extends: none.yaml"])
def test_a_file_that_is_no_configuration_is_refused(place: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (place / "pipeline.yaml").write_text(text)
    assert refused(capsys, "config")[0] == 2


@pytest.mark.parametrize("damage", ["cut", "other", "text"])
def test_teacher_weights_are_refused(place: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    file = place / "teacher.safetensors"
    save_file({"a": torch.zeros(3)}, str(file))
    if damage != "other":
        file.write_bytes(file.read_bytes()[:20] if damage == "cut" else b"weights")
    code, line = refused(capsys, "run", "--until", "train_teacher", "--set", f"teacher.weights={file}")
    assert (code, str(file) in line) == (4, True), line
    assert not list(place.glob("runs/.store/train_teacher-*"))


DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    ("a changed byte", lambda b: (b / "model.onnx").write_bytes((b / "model.onnx").read_bytes()[:-1] + b"!")),
    ("a missing file", lambda b: (b / "model.onnx").unlink()),
    ("a manifest cut short", lambda b: (b / "manifest.json").write_bytes((b / "manifest.json").read_bytes()[:100])),
    ("no manifest", lambda b: (b / "manifest.json").unlink()),
]


@pytest.mark.parametrize("damage", [case[1] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
@pytest.mark.parametrize("command", ["gate", "predict", "serve"])
def test_a_damaged_bundle_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], command: str
) -> None:
    folder = artifact_samples.bundle(place / "made").root
    damage(folder)
    rest = ["data/images/1.png", "--out", "found"] if command == "predict" else []
    code, line = refused(capsys, command, str(folder), *rest)
    assert code == 4, line
    assert not (place / "found").exists()


@pytest.mark.parametrize("image", ["none.png", "pipeline.yaml"])
def test_predict_refuses_what_is_no_image(place: Path, capsys: pytest.CaptureFixture[str], image: str) -> None:
    folder = artifact_samples.bundle(place / "made").root
    code, line = refused(capsys, "predict", str(folder), image, "--out", "found")
    assert (code, image in line) == (3, True), line


def test_serve_refuses_a_bundle_whose_gates_failed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = artifact_samples.bundle(place / "made", gates=[{"metric": "map", "min": 0.9}]).root
    code, line = refused(capsys, "serve", str(folder))
    assert (code, bool(re.search("--allow-ungated", line))) == (4, True), line
