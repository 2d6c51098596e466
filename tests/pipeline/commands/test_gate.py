"""gate with a reference, through the command line: what passes, what fails, and every way in which there is nothing to compare."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx
import onnx_samples
import pytest
from onnx import numpy_helper

import edgedistill
from deploy.bundles.bundle import Bundle, write
from deploy.bundles.manifest import MANIFEST
from pipeline.cli import main
from stages.artifacts import Dataset, read_json
from stages.optimize import optimize

MAP: dict[str, Any] = {"metric": "map", "max_drop": 0.1}
LATENCY: dict[str, Any] = {"metric": "latency_infer_p50_ms", "max_increase": 1000}
BYTES: dict[str, Any] = {"metric": "bytes", "max_increase": "0%"}
NUM_IMAGES = 36
"""A third of them is empty."""


def blind_to(*labels: int) -> onnx.ModelProto:
    """The sample detector, which never finds these labels."""
    model = onnx_samples.detector()
    bias = next(one for one in model.graph.initializer if one.name == "class_bias")
    values = numpy_helper.to_array(bias).copy()
    values[list(labels)] = -40
    bias.CopyFrom(numpy_helper.from_array(values.astype(np.float32), "class_bias"))
    return model


def bundle(root: Path, gates: Sequence[dict[str, Any]], graph: onnx.ModelProto | None = None, *, converged: bool = True) -> Bundle:
    out = root / "engine"
    out.mkdir(parents=True)
    built = optimize(out, samples.target(), samples.model(root / "graph", graph, converged=converged), samples.dataset(root / "cells"))
    return samples.bundle(root, gates, built=built)


@dataclass
class Case:
    """A new bundle, its reference and the data, to be broken."""

    new: Path
    reference: Path
    data: Path

    def edit(self, bundle: Path, **changes: Any) -> Bundle:
        """Another manifest that is whole."""
        manifest = Bundle.load(bundle).manifest
        return write(bundle, manifest.model_copy(update=changes), manifest.files)

    def raw(self, bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
        """Another manifest, whatever becomes of it."""
        content = json.loads((bundle / MANIFEST).read_text())
        change(content)
        (bundle / MANIFEST).write_text(json.dumps(content))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Case]:
    def made(
        *gates: dict[str, Any],
        new: onnx.ModelProto | None = None,
        old: onnx.ModelProto | None = None,
        converged: bool = True,
        num_images: int = NUM_IMAGES,
    ) -> Case:
        data = samples.dataset(tmp_path / "data", num_images)
        own = bundle(tmp_path / "new", gates, new)
        kept = bundle(tmp_path / "old", gates, old, converged=converged)
        return Case(own.root, kept.root, data.root)

    return made


Gate = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def gate(capsys: pytest.CaptureFixture[str]) -> Gate:
    def run(*arguments: object) -> tuple[int, dict[str, Any]]:
        code = main(["gate", *map(str, arguments), "--json"])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, json.loads(printed.out)

    return run


def test_the_same_engine_passes_and_says_what_was_compared(make: Any, gate: Gate) -> None:
    case = make(MAP, LATENCY, BYTES)
    code, answer = gate(case.new, "--reference", case.reference, "--data", case.data)
    assert (code, [one["verdict"] for one in answer["gates"]]) == (0, ["pass"] * 3)
    accuracy, latency, size = answer["gates"]
    assert (accuracy["measured"], accuracy["reference"], accuracy["how"]) == (1, 1, f"{NUM_IMAGES} images, 24 with objects that count")
    assert accuracy["effect"] == {"change": 0, "low": 0, "high": 0, "num": NUM_IMAGES}
    assert "passes per engine on photographs, interleaved in" in latency["how"]
    assert latency["effect"]["low"] < latency["effect"]["change"] < latency["effect"]["high"]
    assert size["effect"]["num"] == 0


def test_a_network_that_finds_nothing_fails(make: Any, gate: Gate) -> None:
    case = make(MAP, new=blind_to(0, 1, 2))
    code, answer = gate(case.new, "--reference", case.reference, "--data", case.data)
    assert (code, answer["gates"][0]["verdict"], answer["gates"][0]["measured"]) == (10, "fail", 0)


def test_what_the_data_lacks_is_reported_and_stops_beyond_the_limit(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    case = make(MAP)
    given = ["gate", str(case.new), "--reference", str(case.reference), "--data", str(case.data)]
    (case.data / "images" / "val" / "1.png").unlink()
    assert main(given) == 0
    assert f"data: val: left out: missing image: 1 of {NUM_IMAGES} images" in capsys.readouterr().err
    assert main([*given, "--max-doubtful", "0.01"]) == 3
    assert "pass --max-doubtful 0.03 to go on" in capsys.readouterr().err
    with pytest.raises(edgedistill.EdgedistillError, match=r"pass --max-doubtful 0\.03 to go on"):
        edgedistill.gate(case.new, reference=case.reference, data=case.data, max_doubtful=0.01)
    assert edgedistill.gate(case.new, reference=case.reference, data=case.data, max_doubtful=0.03).passed
    for share, words in (("0.1", "there is no data to judge on; pass --data DIR"), ("2", "allowed: 0 to 1")):
        data = [] if share == "0.1" else ["--data", str(case.data)]
        assert main(["gate", str(case.new), "--reference", str(case.reference), *data, "--max-doubtful", share]) == 2
        assert f"--max-doubtful {share}: {words}" in capsys.readouterr().err


@pytest.mark.parametrize(("on_noise", "verdict", "code"), [("inconclusive", "inconclusive", 11), ("pass", "pass", 0), ("fail", "fail", 10)])
def test_where_images_are_too_few_it_says_how_many_would_do(make: Any, gate: Gate, on_noise: str, verdict: str, code: int) -> None:
    case = make({"metric": "map", "max_drop": 0.1, "on_noise": on_noise}, new=blind_to(0))
    relabeled(case)
    found, answer = gate(case.new, "--reference", case.reference, "--data", case.data)
    (one,) = answer["gates"]
    assert (found, one["verdict"]) == (code, verdict)
    assert one["effect"]["low"] <= 0.1 < one["effect"]["high"]
    assert one["why"].startswith(f"too few images to tell: {NUM_IMAGES} measured, about ")


def test_a_gain_is_no_drop_and_a_class_may_be_named(make: Any, gate: Gate) -> None:
    case = make({"metric": "map/red", "max_drop": 0}, {"metric": "map_50", "max_increase": "5%"}, old=blind_to(0), num_images=120)
    code, answer = gate(case.new, "--reference", case.reference, "--data", case.data)
    assert (code, [one["verdict"] for one in answer["gates"]]) == (10, ["pass", "fail"])


def test_a_class_in_few_images_gives_no_verdict(make: Any, gate: Gate) -> None:
    case = make({"metric": "map/red", "max_drop": 0.1}, new=blind_to(0))
    code, answer = gate(case.new, "--reference", case.reference, "--data", case.data)
    assert (code, answer["gates"][0]["verdict"]) == (11, "inconclusive")
    assert "images with objects that count are too few to tell; at least 20 are needed" in answer["gates"][0]["why"]


def unwritten(case: Case) -> None:
    (case.reference / MANIFEST).write_text((case.reference / MANIFEST).read_text()[:200])


def without_engine(case: Case) -> None:
    case.edit(case.reference, engine=None, runtime="trt_rtx", why="no GPU")
    case.raw(case.reference, lambda content: content["plan"]["targets"][0].update(runtime="trt_rtx", precision="fp16"))


def unknown_metric(case: Case) -> None:
    case.raw(case.new, lambda content: content["plan"]["gates"][0].update(metric="mapp"))


def data_without_val(case: Case) -> None:
    (case.data / "val.json").unlink()
    shutil.rmtree(case.data / "images" / "val")


def spoiled(case: Case) -> None:
    case.edit(case.reference, data=("a" * 64, NUM_IMAGES))
    (case.data / "images" / "val" / "1.png").write_bytes(b"no")


def emptied(case: Case) -> None:
    shutil.rmtree(case.reference)
    case.reference.mkdir()


def relabeled(case: Case) -> None:
    """Every second red cell is green, says whoever labeled them."""
    file = case.data / "val.json"
    truth = json.loads(file.read_text())
    red, green, _ = onnx_samples.CATEGORY_IDS
    for one in [one for one in truth["annotations"] if one["category_id"] == red][::2]:
        one["category_id"] = green
    file.write_text(json.dumps(truth))


OTHER_CLASSES = {"classes": ("red", "green", "pink"), "category_ids": onnx_samples.CATEGORY_IDS}
BROKEN: dict[str, tuple[Callable[[Case], object], int, str]] = {
    "no reference folder": (lambda c: shutil.rmtree(c.reference), 12, "no reference:"),
    "an empty reference folder": (emptied, 12, "manifest.json does not exist"),
    "half a manifest": (unwritten, 12, "not JSON"),
    "another format": (lambda c: c.raw(c.reference, lambda m: m.update(format=1)), 12, "bundle format 1"),
    "a key that no manifest has": (lambda c: c.raw(c.reference, lambda m: m.update(colour="red")), 12, "not a bundle's manifest"),
    "NaN in the reference": (lambda c: c.raw(c.reference, lambda m: m["accuracy"].update(map=float("nan"))), 12, "accuracy.map"),
    "NaN in the new bundle": (lambda c: c.raw(c.new, lambda m: m["accuracy"].update(map=float("nan"))), 4, "accuracy.map"),
    "its engine is gone": (lambda c: (c.reference / "model.onnx").unlink(), 12, "model.onnx: No such file"),
    "half an engine": (lambda c: (c.reference / "model.onnx").write_bytes(b"half"), 12, "sha256"),
    "half an engine, new": (lambda c: (c.new / "model.onnx").write_bytes(b"half"), 4, "sha256"),
    "no new bundle": (lambda c: shutil.rmtree(c.new), 2, "new"),
    "no new manifest": (lambda c: (c.new / MANIFEST).unlink(), 4, "pass the folder of a bundle"),
    "of another target": (lambda c: c.edit(c.reference, target="there"), 12, "is of target there, not of here"),
    "of another runtime": (lambda c: c.edit(c.reference, runtime="abacus"), 12, "abacus"),
    "no engine, and none can be built": (without_engine, 12, "trt"),
    "other classes": (
        lambda c: c.edit(c.reference, contract=Bundle.load(c.reference).manifest.contract.model_copy(update=OTHER_CLASSES)),
        12,
        "detect different classes",
    ),
    "other images": (
        lambda c: c.edit(c.reference, data=("a" * 64, NUM_IMAGES)),
        12,
        "as many images, with different content",
    ),
    "fewer images": (lambda c: c.edit(c.reference, data=("a" * 64, 99)), 12, f"99 images then, {NUM_IMAGES} now"),
    "a metric that there is not": (unknown_metric, 12, "did you mean map"),
    "a gate with two kinds of limit": (
        lambda c: c.raw(c.new, lambda m: m["plan"]["gates"][0].update(min=0.1)),
        4,
        "a separate gate for each",
    ),
    "no folder of data": (lambda c: shutil.rmtree(c.data), 3, "data"),
    "data without the split": (data_without_val, 3, "val"),
    "an annotation file that is none": (lambda c: (c.data / "val.json").write_text("{"), 3, "val.json"),
    "an image that is none": (spoiled, 12, f"{NUM_IMAGES} images then, {NUM_IMAGES - 1} now"),
}


@pytest.mark.parametrize(("breaks", "code", "words"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_never_passes(make: Any, gate: Gate, breaks: Callable[[Case], object], code: int, words: str) -> None:
    case = make(MAP)
    breaks(case)
    found, answer = gate(case.new, "--reference", case.reference, "--data", case.data)
    said = answer.get("error") or " ".join(str(one["why"]) for one in answer["gates"])
    assert (found, words in said) == (code, True), (found, said)


UNDEFINED: dict[str, tuple[dict[str, Any], str]] = {
    "no such class": ({"metric": "map/pink", "max_drop": 0.1}, "no class 'pink'"),
    "no such objects": ({"metric": "map_large", "max_drop": 0.1}, "undefined"),
    "no masks": ({"metric": "mask_map", "max_drop": 0.1}, "without masks"),
    "an older bundle without costs": ({"metric": "operators", "max_increase": 0}, "is unknown"),
}


@pytest.mark.parametrize(("one", "words"), UNDEFINED.values(), ids=UNDEFINED)
def test_a_metric_that_is_undefined_never_passes(make: Any, gate: Gate, one: dict[str, Any], words: str) -> None:
    case = make(one)
    case.edit(case.reference, cost=None)
    code, answer = gate(case.new, "--reference", case.reference, "--data", case.data)
    assert (code, answer["gates"][0]["verdict"], words in answer["gates"][0]["why"]) == (12, "incomparable", True)


def test_an_answer_that_cannot_be_used_never_passes(make: Any, gate: Gate) -> None:
    case = make(MAP, LATENCY, converged=False)
    code, answer = gate(case.new, "--reference", case.reference, "--data", case.data)
    assert code == 12
    assert all("did not converge" in one["why"] for one in answer["gates"])


def test_accuracy_takes_data_and_latency_does_not(make: Any, gate: Gate) -> None:
    case = make(MAP, LATENCY)
    code, answer = gate(case.new, "--reference", case.reference)
    assert (code, [one["verdict"] for one in answer["gates"]]) == (12, ["incomparable", "pass"])
    assert "--data" in answer["gates"][0]["why"]
    assert "on noise" in answer["gates"][1]["how"]


def test_a_bundles_gates_on_changes_are_not_forgotten(make: Any, gate: Gate) -> None:
    code, answer = gate(make(MAP).new)
    assert (code, answer["gates"][0]["verdict"]) == (12, "incomparable")
    assert "no reference was given" in answer["gates"][0]["why"]


def test_a_reference_that_no_gate_compares_with_is_refused(make: Any, gate: Gate) -> None:
    case = make({"metric": "bytes", "max": 1e9})
    code, answer = gate(case.new, "--reference", case.reference)
    assert (code, "no gate compares with a reference" in answer["error"]) == (2, True)


def test_a_handful_of_images_gives_no_verdict(make: Any, gate: Gate, tmp_path: Path) -> None:
    case = make(MAP)
    code, answer = gate(case.new, "--reference", case.reference, "--data", samples.dataset(tmp_path / "few", 6).root)
    assert (code, answer["gates"][0]["verdict"]) == (11, "inconclusive")
    assert answer["gates"][0]["why"] == "6 images are too few to tell; at least 20 are needed"


def test_nothing_else_is_deleted_for_a_reference(make: Any, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make({"metric": "bytes", "max": 1e9})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    monkeypatch.chdir(mine)
    for folder in (mine, "."):
        code, answer = gate(case.new, "--save-reference", folder)
        assert (code, "thesis.txt, which is not a bundle" in answer["error"]) == (2, True)
    assert (mine / "thesis.txt").read_text() == "all of it"
    kept = tmp_path / "kept"
    shutil.copytree(case.reference, kept / "other")
    assert gate(case.new, "--save-reference", kept)[0] == 0
    assert sorted(path.name for path in kept.iterdir()) == ["here", "other"]


def test_references_are_put_back_after_a_kill_between_two_renames(make: Any, gate: Gate, tmp_path: Path) -> None:
    case = make({"metric": "bytes", "max": 1e9})
    shutil.copytree(case.reference, tmp_path / ".kept.old" / "other")
    assert gate(case.new, "--save-reference", tmp_path / "kept")[0] == 0
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["here", "other"]


def test_what_failed_is_not_kept(make: Any, gate: Gate, tmp_path: Path) -> None:
    case = make({"metric": "bytes", "max": 1})
    assert gate(case.new, "--save-reference", tmp_path / "kept")[0] == 10
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("options", "words"), [(["--data", "x"], "nothing is measured without --reference"), (["--set", "gates=[]"], "is a bundle")]
)
def test_options_that_do_not_go_with_a_bundle(make: Any, gate: Gate, options: list[str], words: str) -> None:
    code, answer = gate(make(MAP).new, *options)
    assert (code, words in answer["error"]) == (2, True)


def test_a_reference_is_kept_whole_and_replaced_only_by_what_passes(make: Any, gate: Gate, tmp_path: Path) -> None:
    case, kept = make(MAP, new=blind_to(0, 1, 2)), tmp_path / "kept"
    assert gate(case.reference, "--save-reference", kept)[0] == 0
    assert Bundle.load(kept / "here").manifest == Bundle.load(case.reference).manifest
    before = sorted(path.read_bytes() for path in (kept / "here").iterdir())
    assert gate(case.new, "--reference", kept, "--data", case.data, "--save-reference", kept)[0] == 10
    assert sorted(path.read_bytes() for path in (kept / "here").iterdir()) == before
    assert gate(case.reference, "--reference", kept, "--data", case.data, "--save-reference", kept)[0] == 0


@pytest.mark.parametrize("others", [[], [{"metric": "map", "min": 0.1}]], ids=["alone", "beside a gate on a number"])
def test_a_foreign_reference_is_built_again_from_its_own_graph(
    make: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, others: list[dict[str, Any]]
) -> None:
    from deploy.runtimes import ort

    case = make(MAP, LATENCY, *others)
    case.edit(case.reference, fingerprint={"runtime": "of another machine"})
    monkeypatch.setattr(ort, "foreign", lambda given: "built elsewhere" if given == {"runtime": "of another machine"} else None)
    other = Bundle.load(shutil.copytree(case.reference, tmp_path / "of other data")).root
    case.edit(other, data=("a" * 64, 99))
    assert gate(case.new, "--reference", other, "--data", case.data)[0] == 12  # also where its engine is built again
    code = main(["gate", str(case.new), "--reference", str(case.reference), "--data", str(case.data), "--out", str(tmp_path / "out")])
    assert code == 0
    assert [one["verdict"] for one in read_json(tmp_path / "out" / "gate.json")["gates"]] == ["pass"] * (2 + len(others))


def test_digest_is_of_annotations_and_pixels(tmp_path: Path) -> None:
    from stages.measurement.splits import labeled_split

    def digest(dataset: Dataset) -> str:
        return labeled_split(dataset, "val").digest()

    first, second = samples.dataset(tmp_path / "a"), samples.dataset(tmp_path / "b")
    assert digest(first) == digest(second)
    shutil.copyfile(first.root / "images" / "val" / "1.png", first.root / "images" / "val" / "2.png")
    assert digest(first) != digest(second)
