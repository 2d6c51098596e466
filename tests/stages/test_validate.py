import json
from pathlib import Path

import artifact_samples as samples
import onnx_samples
import pytest

from deploy import machine
from deploy.contract import MaskFrame
from deploy.errors import ArtifactError, DataError
from deploy.prediction import masks
from stages.artifacts import Dataset, Engine, Report, read_json
from stages.config import ValidationConfig
from stages.facts import write_facts
from stages.validate import identity, validate

QUICK = ValidationConfig.model_validate({"latency": {"warmup": 1, "min_passes": 5, "min_seconds": 0, "threads": 1}})


def run(tmp_path: Path, engine: Engine, config: ValidationConfig = QUICK) -> Report:
    out = tmp_path / "report"
    out.mkdir()
    return validate(out, config, engine, Dataset(tmp_path / "data"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_detector_that_finds_everything_scores_one(tmp_path: Path, precision: str) -> None:
    report = run(tmp_path, samples.engine(tmp_path, samples.target(precision=precision)))
    facts = report.facts
    assert facts.accuracy is not None
    assert facts.accuracy.map == pytest.approx(1)
    assert (facts.accuracy.split, facts.accuracy.num_images) == ("val", 6)
    assert set(facts.accuracy.per_class) == {"red", "green", "blue"}
    assert (facts.why, facts.target, facts.machine) == (None, "here", machine.identity())
    truth = read_json(tmp_path / "data" / "val.json")["annotations"]
    found = read_json(report.root / "detections.json")
    boxes = {(one["image_id"], one["category_id"], *map(float, one["bbox"])) for one in truth}
    assert {(one["image_id"], one["category_id"], *map(round, one["bbox"])) for one in found} == boxes
    assert len(read_json(report.root / "curves.json")["mean"]["overall"]) == 101


@pytest.mark.parametrize(("frame", "share", "metric"), [("image", 1.0, "map_75"), ("box", 0.5, "map_50")])
def test_masks_are_measured_where_the_contract_has_them(tmp_path: Path, frame: MaskFrame, share: float, metric: str) -> None:
    engine = samples.engine(tmp_path, samples.target())
    onnx_samples.write(engine.file(str(engine.facts.file)), mask_frame=frame)
    write_facts(engine.root, engine.facts.model_copy(update={"contract": onnx_samples.contract(mask_frame=frame)}))
    truth = read_json(tmp_path / "data" / "val.json")
    for row in truth["annotations"]:
        x, y, width, height = row["bbox"]
        row["segmentation"] = masks.rectangle([x, y, width * share, height])
    (tmp_path / "data" / "val.json").write_text(json.dumps(truth))
    report = run(tmp_path, engine)
    accuracy = report.facts.accuracy
    assert accuracy is not None
    assert accuracy.map == pytest.approx(1)
    assert accuracy.segmentation is not None
    assert getattr(accuracy.segmentation, metric) == pytest.approx(1)
    assert all(set(one["segmentation"]) == {"size", "counts"} for one in read_json(report.root / "detections.json"))


def test_an_engine_that_cannot_run_here_gives_a_report_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(machine, "gpu", dict)
    engine = samples.engine(tmp_path, samples.target(runtime="trt_rtx", precision="fp16", compute_capability="8.9"))
    facts = run(tmp_path, engine).facts
    assert facts.accuracy is None
    assert "no NVIDIA GPU here" in str(facts.why)
    assert facts.bytes == engine.facts.bytes


def test_an_engine_that_could_not_be_built_keeps_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.runtimes.nvidia.session.why_not_installed", lambda package, extra: f"{package} is not installed: {extra}")
    facts = run(tmp_path, samples.engine(tmp_path, samples.target(runtime="trt"))).facts
    assert str(facts.why).startswith("tensorrt is not installed")
    assert facts.bytes is None


def test_an_nms_that_did_not_converge_is_an_error(tmp_path: Path) -> None:
    engine = samples.engine(tmp_path, samples.target(), converged=False)
    with pytest.raises(ArtifactError, match=r"validate here, 0\.png: .* did not converge"):
        run(tmp_path, engine)


def test_a_damaged_engine_is_an_error(tmp_path: Path) -> None:
    engine = samples.engine(tmp_path, samples.target())
    (engine.root / "engine.onnx").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="not an engine"):
        run(tmp_path, engine)


def test_an_unknown_split_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    engine = samples.engine(tmp_path, samples.target())
    with pytest.raises(DataError, match=r"'vall' \(did you mean val\?\): the data has train, val"):
        run(tmp_path, engine, QUICK.model_copy(update={"split": "vall"}))


def test_a_split_without_images_is_an_error(tmp_path: Path) -> None:
    engine = samples.engine(tmp_path, samples.target())
    (tmp_path / "data" / "val.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(DataError, match="no image"):
        run(tmp_path, engine)


def test_the_machine_is_part_of_the_hash(tmp_path: Path) -> None:
    found = identity(QUICK, Engine(tmp_path), Dataset(tmp_path))
    assert {"platform", "cpu", "cores"} <= set(json.loads(json.dumps(dict(found))))
