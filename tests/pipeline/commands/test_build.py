"""build, through the command line as a stranger would use it."""

import json
import shutil
from pathlib import Path
from typing import Any

import artifact_samples as samples
import pytest

from deploy import machine
from deploy.bundles.bundle import Bundle, write
from deploy.comparison.gain import DistillationGain, GainOver
from deploy.contract import Ratio
from deploy.errors import ArtifactError
from deploy.runtimes import fingerprint, ncnn
from pipeline.cli import main
from pipeline.commands.build import plan, with_auto
from stages.artifacts import Dataset


@pytest.fixture
def given(tmp_path: Path) -> Bundle:
    made = samples.bundle(tmp_path / "given", license="MIT")
    targets = [
        samples.target(),
        samples.target(name="int8", precision="int8"),
        samples.target(name="choice", precision="auto"),
        samples.target(name="gpu", runtime="trt_rtx", precision="fp16"),
        samples.target(name="needed", runtime="trt_rtx", precision="fp16", compute_capability="8.9", required=True),
    ]
    plan = made.manifest.plan.model_copy(update={"targets": tuple(one.model_dump(mode="json") for one in targets)})
    return write(made.root, made.manifest.model_copy(update={"plan": plan}), made.manifest.files)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return samples.dataset(tmp_path / "cells")


def build(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main(["build", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_bundles_own_target_is_judged_again(given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = build(capsys, given.root, "--data", data.root, "--out", tmp_path / "here")
    assert (code, answer["map"], [gate["verdict"] for gate in answer["gates"]]) == (0, 1.0, ["pass", "pass"])
    made = Bundle.load(tmp_path / "here")
    assert made.gated
    assert made.manifest.accuracy is not None
    assert made.manifest.accuracy.map == 1
    assert (made.manifest.license, made.manifest.graph, made.manifest.plan) == ("MIT", given.manifest.graph, given.manifest.plan)
    assert made.manifest.provenance.artifacts["onnx"] == given.manifest.provenance.artifacts["onnx"]
    assert {path.name for path in made.root.iterdir()} == {*made.manifest.files, "manifest.json"}
    with made.open(threads=1):
        pass


def test_what_distillation_gained_stays_in_the_bundle(given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps, cost = (GainOver(epochs=epochs, map=0.5 - gain, gain=gain) for epochs, gain in ((3, 0.05), (5, 0.01)))
    known = {"split": "val", "num_images": 6, "teacher_map": 0.6, "student_map": 0.5, "epochs": 3}
    ratio = Ratio(ratio=1.7, low=1.6, high=1.8)
    gain = DistillationGain(**known, equal_steps=steps, equal_cost=cost, step_ratio=ratio)
    for found, expected in ((gain, gain), (None, None)):  # bundles of earlier versions do not know it
        write(given.root, given.manifest.model_copy(update={"gain": found}), given.manifest.files)
        out = tmp_path / f"here, {found is None}"
        assert build(capsys, given.root, "--out", out)[0] in {0, 12}
        assert Bundle.load(out).manifest.gain == expected
        assert ("| baseline at equal cost | 5 | 0.49 | +0.0100 |" in (out / "README.md").read_text()) == (found is not None)


def test_another_target_of_the_pipeline(given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = build(capsys, given.root, "--target", "int8", "--data", data.root, "--out", tmp_path / "here")
    assert (code, answer["precision"]) == (0, "int8")
    assert Bundle.load(tmp_path / "here").manifest.proof["convolutions_int8"] > 0


def test_what_was_decided_on_the_device_is_in_the_new_bundle_and_said(
    given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = (samples.target(name="limited", precision="int8", max_map_drop=0.5), samples.target(name="choice", precision="auto"))
    plan = given.manifest.plan.model_copy(update={"targets": tuple(one.model_dump(mode="json") for one in targets)})
    write(given.root, given.manifest.model_copy(update={"plan": plan}), given.manifest.files)
    code, answer = build(capsys, given.root, "--target", "limited", "--data", data.root, "--out", tmp_path / "one")
    made = Bundle.load(tmp_path / "one").manifest
    assert (code, made.choice) == (0, None)
    assert made.fallback is not None
    assert (made.fallback.limit, made.fallback.float_map, made.fallback.float_layers) == (0.5, 1, ())
    assert answer["fallback"] == made.fallback.model_dump(mode="json")
    assert "none of 2 layers were returned from int8 to float: mAP 1.0000" in (tmp_path / "one" / "README.md").read_text()
    assert main(["build", str(given.root), "--target", "choice", "--data", str(data.root), "--out", str(tmp_path / "two")]) == 0
    said = capsys.readouterr().out
    chosen = Bundle.load(tmp_path / "two").manifest.choice
    assert chosen is not None
    assert f"choice: {chosen.pair} was chosen, the fastest\ncandidate " in said
    assert f"{chosen.pair} was chosen; no other is measurably faster: ort fp32 mAP 1.0000, " in (tmp_path / "two" / "README.md").read_text()


def test_target_auto_is_the_best_pair_of_this_machine_within_the_bundles_limit(
    given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, limited = samples.target(calibration_split="val"), samples.target(name="int8", precision="int8", max_map_drop=0.02)
    gates = [
        {"metric": "map", "min": 0.5},
        {"metric": "bytes", "max": 1e9, "target": "here"},
        {"metric": "map_50", "min": 2, "target": "int8"},
    ]
    targets = tuple(one.model_dump(mode="json") for one in (own, limited))
    plan = given.manifest.plan.model_copy(update={"targets": targets, "gates": samples.plan(gates).gates})
    write(given.root, given.manifest.model_copy(update={"plan": plan}), given.manifest.files)
    assert main(["build", str(given.root), "--target", "auto", "--data", str(data.root), "--out", str(tmp_path / "one"), "--json"]) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert "target auto: may lose 0.02 mAP; gates as for here" in said.err
    assert [gate["target"] for gate in answer["gates"]] == ["auto", "auto"]
    assert answer["choice"]["limit"] == 0.02
    assert {one["verdict"] for one in answer["choice"]["offers"]} >= {"chosen"}
    made = Bundle.load(tmp_path / "one")
    manifest = made.manifest
    assert manifest.choice is not None
    assert (manifest.runtime, manifest.precision) == (answer["runtime"], answer["precision"]) == tuple(manifest.choice.pair.split())
    assert (manifest.target, made.gated, "auto" in manifest.options) == ("auto", True, False)
    with made.open(threads=1):
        pass
    code, again = build(capsys, made.root, "--data", data.root, "--out", tmp_path / "two")
    assert (code, len(again["gates"]), again["choice"]["limit"]) == (0, 2, 0.02)


def test_target_auto_without_any_limit_may_lose_one_point(given: Bundle) -> None:
    assert plan(with_auto(given, "auto"), "auto")[0].max_map_drop == 0.01
    assert with_auto(given, "int8") is given
    assert with_auto(with_auto(given, "auto"), "auto").manifest.plan == with_auto(given, "auto").manifest.plan


def test_the_fastest_runtime_in_fp32_needs_no_data(given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = (samples.target(name="free", runtime="auto").model_dump(mode="json"),)
    carried = given.manifest.plan.model_copy(update={"targets": targets})
    write(given.root, given.manifest.model_copy(update={"plan": carried}), given.manifest.files)
    code, answer = build(capsys, given.root, "--target", "free", "--out", tmp_path / "here")
    assert (code, answer["precision"], answer["choice"]["float_map"]) == (12, "fp32", None)
    assert all(one["map"] is None for one in answer["choice"]["offers"])


def test_a_split_to_judge_on_is_data_enough(given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data.root / "train.json").unlink()
    code, answer = build(capsys, given.root, "--target", "choice", "--data", data.root, "--out", tmp_path / "here")
    assert (code, answer["map"]) == (0, 1.0)


def test_a_yolo_folder_is_judged_on_the_split_that_was_asked_for(
    given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, truth = tmp_path / "yolo", json.loads((data.root / "val.json").read_text())
    (root / "test" / "images").mkdir(parents=True)
    (root / "test" / "labels").mkdir()
    (root / "data.yaml").write_text("test: test/images\nnames: [blue, red, green]\n")
    numbers = {90: 0, 3: 1, 7: 2}
    for image in truth["images"]:
        shutil.copy(data.root / "images" / "val" / image["file_name"], root / "test" / "images")
        boxes = [(numbers[one["category_id"]], one["bbox"]) for one in truth["annotations"] if one["image_id"] == image["id"]]
        lines = [f"{number} {(x + w / 2) / 64} {(y + h / 2) / 64} {w / 64} {h / 64}\n" for number, (x, y, w, h) in boxes]
        (root / "test" / "labels" / image["file_name"]).with_suffix(".txt").write_text("".join(lines))
    code, answer = build(capsys, given.root, "--data", root, "--out", tmp_path / "here")
    assert (code, answer["error"].endswith("no split val; the data has test; choose one to judge on with --split NAME")) == (3, True)
    code, answer = build(capsys, given.root, "--data", root, "--split", "test", "--out", tmp_path / "here")
    assert (code, answer["map"]) == (0, 1.0)


def test_what_reading_the_data_changed_is_printed(given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = json.loads((data.root / "val.json").read_text())
    truth["annotations"][0]["bbox"] = " ".join(map(str, truth["annotations"][0]["bbox"]))
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "annotations" / "instances_val.json").write_text(json.dumps(truth))
    shutil.copytree(data.root / "images" / "val", tmp_path / "coco" / "val")
    assert main(["build", str(given.root), "--data", str(tmp_path / "coco"), "--out", str(tmp_path / "here")]) == 0
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("data: ")]
    assert line.startswith("data: val: repaired: box written in an unusual form: 1 of 6 boxes, first: annotation 1 in ")


def test_without_data_accuracy_is_not_judged(given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = build(capsys, given.root, "--out", tmp_path / "here")
    assert (code, answer["map"]) == (12, None)
    assert [gate["verdict"] for gate in answer["gates"]] == ["incomparable", "pass"]
    assert answer["latency_end_to_end_p50_ms"] > 0
    with pytest.raises(ArtifactError, match="is incomparable"):
        Bundle.load(tmp_path / "here").refuse_ungated()


def test_gates_that_only_a_pipeline_measures_are_said_and_the_bundle_opens(
    given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robust = [{"metric": "map@shifted", "min": 0.3}, {"metric": "map_worst_group", "min": 0.2}, {"metric": "rpc", "min": 0.1}]
    gates = samples.plan([{"metric": "map", "min": 0.5}, *robust]).gates
    carried = given.manifest.plan.model_copy(update={"gates": gates})
    write(given.root, given.manifest.model_copy(update={"plan": carried}), given.manifest.files)
    assert main(["build", str(given.root), "--data", str(data.root), "--out", str(tmp_path / "here"), "--json"]) == 0
    printed = capsys.readouterr()
    assert [gate["metric"] for gate in json.loads(printed.out)["gates"]] == ["map"]
    assert all(f"is on {one['metric']}, which only a pipeline measures" in printed.err for one in robust)
    assert [gate["metric"] for gate in Bundle.load(tmp_path / "here").manifest.plan.gates] == ["map", *(one["metric"] for one in robust)]


def test_gates_that_need_a_reference_leave_nothing_to_judge(given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    carried = given.manifest.plan.model_copy(update={"gates": samples.plan([{"metric": "map", "max_drop": 0.01}]).gates})
    write(given.root, given.manifest.model_copy(update={"plan": carried}), given.manifest.files)
    assert main(["build", str(given.root), "--out", str(tmp_path / "here")]) == 12
    assert capsys.readouterr().out.endswith("\nthere is no gate that can be judged here, so nothing was judged\n")


def test_an_engine_that_cannot_run_here_is_packed_and_said(given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    code, answer = build(capsys, given.root, "--target", "needed", "--out", tmp_path / "here")
    assert (code, answer["why"] is not None) == (5, True)
    assert Bundle.load(tmp_path / "here").manifest.engine == "engine.plan"


REFUSALS = {
    "no such target": (["--target", "in8"], 2, "--target in8 (did you mean int8?): the bundle has here, int8, choice, gpu, needed"),
    "int8 without data": (["--target", "int8"], 2, "pass --data DIR"),
    "a choice without data": (["--target", "choice"], 2, "pass --data DIR"),
    "auto without data": (
        ["--target", "auto"],
        2,
        "target auto: precision auto needs images to read ranges from or to judge on; pass --data DIR",
    ),
    "a split without data": (["--split", "test"], 2, "pass --data DIR"),
    "a share without data": (["--max-doubtful", "0.1"], 2, "pass --data DIR"),
    "no such data": (["--data", "nowhere"], 3, "nowhere: no such folder"),
}


@pytest.mark.parametrize(("arguments", "code", "line"), REFUSALS.values(), ids=REFUSALS)
def test_is_refused_in_one_line(
    given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, line: str
) -> None:
    found, answer = build(capsys, given.root, *arguments, "--out", tmp_path / "here")
    assert (found, line in answer["error"], "\n" in answer["error"]) == (code, True, False)
    assert not (tmp_path / "here").exists()
    assert not list(tmp_path.glob(".here*"))


def test_a_target_whose_device_is_not_here_writes_nothing(
    given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.machine.gpu", dict)
    code, answer = build(capsys, given.root, "--target", "gpu", "--out", tmp_path / "here")
    assert (code, "target gpu: " in answer["error"]) == (5, True)
    assert not (tmp_path / "here").exists()


def test_a_folder_that_holds_something_is_kept(given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = build(capsys, given.root, "--out", given.root)
    assert (code, "already exists" in answer["error"]) == (2, True)
    assert Bundle.load(given.root).manifest == given.manifest


@pytest.mark.parametrize("name", [".", ".."])
def test_a_folder_that_is_there_is_refused_before_anything_is_measured(
    given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, answer = build(capsys, given.root, "--out", name)
    assert (code, "already exists" in answer["error"]) == (2, True)


def test_a_required_target_without_gates_ends_as_required(given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    plan = given.manifest.plan.model_copy(update={"gates": ()})
    write(given.root, given.manifest.model_copy(update={"plan": plan}), given.manifest.files)
    assert build(capsys, given.root, "--target", "needed", "--out", tmp_path / "one")[0] == 5
    assert build(capsys, given.root, "--out", tmp_path / "two")[0] == 12


def test_images_to_read_ranges_from_need_no_boxes(given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = data.root / "train.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    code, answer = build(capsys, given.root, "--target", "int8", "--data", data.root, "--out", tmp_path / "here")
    assert (code, answer["map"]) == (0, 1.0)


@pytest.mark.skipif(ncnn.why_not_build({}) is not None or ncnn.why_not() is not None, reason="ncnn or pnnx is not installed")
def test_an_engine_that_runs_but_cannot_be_built_here_is_judged_as_it_is(
    data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = samples.bundle(tmp_path / "given", built=samples.engine(tmp_path / "built", samples.target(runtime="ncnn")))
    here = {**machine.identity(), "cpu": "Raspberry Pi 5"}
    monkeypatch.setattr(machine, "identity", lambda: here)
    monkeypatch.setattr(ncnn, "why_not_build", lambda _: "pnnx is not installed")
    assert made.why_ungated_here() is not None
    assert main(["build", str(made.root), "--data", str(data.root), "--out", str(tmp_path / "here")]) == 0
    said = capsys.readouterr().err
    assert "target here: pnnx is not installed; the bundle's own engine, which runs here, is judged" in said
    judged = Bundle.load(tmp_path / "here")
    assert judged.why_ungated_here() is None
    assert judged.manifest.files["engine.ncnn.zip"] == made.manifest.files["engine.ncnn.zip"]
    assert judged.manifest.accuracy != made.manifest.accuracy
    assert {path.name for path in judged.root.iterdir()} == {*judged.manifest.files, "manifest.json"}

    monkeypatch.setattr(ncnn, "why_not", lambda: "ncnn is not installed")
    assert main(["build", str(made.root), "--data", str(data.root), "--out", str(tmp_path / "other")]) == 5
    assert "pnnx is not installed" in capsys.readouterr().err


def test_interrupted_it_says_that_nothing_was_written(
    given: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.measure.measure_together", interrupt)
    code, answer = build(capsys, given.root, "--out", tmp_path / "here")
    assert (code, answer["error"]) == (130, "interrupted; nothing was written")
    assert not list(tmp_path.glob("*here*"))


def test_data_of_other_classes_is_refused(given: Bundle, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "val"):
        file = data.root / f"{name}.json"
        file.write_text(file.read_text().replace('"red"', '"crimson"'))
    code, answer = build(capsys, given.root, "--data", data.root, "--out", tmp_path / "here")
    assert code == 3
    assert "'crimson' in the data but not in the bundle, which has red, green, blue" in answer["error"]


def test_a_target_for_another_gpu_becomes_one_for_the_gpu_that_is_here(given: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plan(given, "needed")[0].options["compute_capability"] == "8.9"
    monkeypatch.setattr("deploy.machine.gpu", lambda: {"gpu": "RTX 3090", "driver": "580", "compute_capability": "8.6"})
    target = plan(given, "needed")[0]
    assert target.options["compute_capability"] == "current"
    assert fingerprint(target.runtime, target.options)["gpu"] == "RTX 3090"
    assert plan(given, "here")[0] == samples.target()


def test_an_engine_of_another_machine_names_this_command(given: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = {"tensorrt": "tensorrt 10.13.0", "compute_capability": "8.9", "gpu": "RTX 4090"}
    monkeypatch.setattr("deploy.runtimes.trt.why_not", lambda: None)
    monkeypatch.setattr("deploy.runtimes.trt.identity", lambda: {**fingerprint, "compute_capability": "8.7", "gpu": "Orin"})
    made = Bundle(given.root, given.manifest.model_copy(update={"runtime": "trt", "fingerprint": fingerprint}))
    with pytest.raises(
        ArtifactError,
        match=r"built for compute capability 8\.9, this machine has 8\.7; build it here: edgedistill build .* --data DIR --out DIR",
    ):
        made.open()
