"""What the teacher found in images without labels: in summary.json, in the terminal, in the report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import run_samples
from PIL import Image

from pipeline.report.page import write_report
from pipeline.results.pseudo_labels import about
from pipeline.results.summary import summarize
from pipeline.results.table import render
from pipeline.run_result import RunResult
from stages.artifacts import ImagePool, PseudoLabels
from stages.config import UnlabelledConfig
from stages.facts import write_facts
from stages.notes import Note
from stages.unlabeled_facts import PoolFacts, PseudoClass, PseudoFacts

WARNING = "97% of the unlabeled images are unlike the labeled ones"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    root = tmp_path_factory.mktemp("run")
    data = run_samples.dataset(root / "data")
    run = run_samples.run(root, data)
    pool, labels = root / "pool", root / "labels"
    for folder in (pool, labels):
        folder.mkdir()
    Image.new("RGB", (80, 60), (90, 120, 40)).save(root / "photo.png")
    image = {"id": 1, "file_name": str(root / "photo.png"), "width": 80, "height": 60}
    contract = data.facts.contract
    name, category = contract.classes[0], contract.category_ids[0]
    boxes = [{"id": n, "image_id": 1, "category_id": category, "bbox": [5, 5, 20, 20], "score": n / 10} for n in (9, 6, 1)]
    classes = [{"id": number, "name": one} for number, one in zip(contract.category_ids, contract.classes, strict=True)]
    (labels / PseudoLabels.IMAGES).write_text(json.dumps({"images": [image], "annotations": boxes, "categories": classes}))
    never = PseudoClass(accept=None, low=None, sure=None, num_objects=3, precision=None, recall=0.0)
    own = PseudoClass(accept=0.8, low=0.4, sure=0.9, num_objects=12, precision=0.875, recall=0.58, accepted=1, ignored=1)
    found = {one: own if one == name else never for one in contract.classes}
    write_facts(labels, PseudoFacts(split="val", num_images=1, empty=0, classes=found, unlike=0.97, warnings=(WARNING,)))
    lost = Note(kind="unreadable image", action="left out", unit="images", split="unlabelled", count=1, total=2, examples=("bad.png: no",))
    write_facts(pool, PoolFacts(num_images=1, sha256="ab", notes=(lost,)))
    section = run.config.distill.model_copy(update={"unlabelled": UnlabelledConfig()})
    config = run.config.model_copy(update={"distill": section})
    return replace(run, config=config, pool=ImagePool(pool), labels=PseudoLabels(labels))


def test_the_summary_has_the_images_the_classes_and_the_notes(result: RunResult) -> None:
    data = summarize(result)["data"]
    name = result.dataset.facts.contract.classes[0]
    assert data["unlabelled"]["num_images"] == 1
    assert data["unlabelled"]["labels"]["classes"][name]["accepted"] == 1
    assert [note["split"] for note in data["notes"]][-1] == "unlabelled"
    json.dumps(data, allow_nan=False)
    assert summarize(replace(result, pool=None, labels=None))["data"]["unlabelled"] is None


def test_the_terminal_shows_thresholds_counts_and_how_right_they_are(result: RunResult) -> None:
    text = render(summarize(result))
    name = result.dataset.facts.contract.classes[0]
    (line,) = (one for one in text.splitlines() if one.startswith(name) and "88%" in one)
    assert line.split() == [name, "0.80", "1", "1", "88%", "58%", "12"]
    assert f"! unlabelled: {WARNING}" in text
    assert "unlabeled images: 1; without a target: 0; precision and recall" in text
    assert "pseudo-labels" not in render(summarize(replace(result, pool=None, labels=None)))


def test_what_several_views_gave_is_said() -> None:
    facts = PseudoFacts(split="val", num_images=1, empty=0, classes={}, views=("mirror", "zoom"), map=0.471, plain_map=0.45)
    lines = about({"num_images": 1, "num_learned": 1, "labels": facts.model_dump(mode="json")})
    assert "joined with those in other views (mirror, zoom): map 0.4710 on split val, 0.4500 by one view" in lines[1]
    plain = facts.model_copy(update={"views": (), "map": None, "plain_map": None})
    assert len(about({"num_images": 1, "num_learned": 1, "labels": plain.model_dump(mode="json")})) == 1


def test_images_that_are_not_learned_or_have_no_targets_are_said_to_be_so(result: RunResult, tmp_path: Path) -> None:
    assert result.pool is not None
    assert result.labels is not None
    folders = [Path(shutil.copytree(one.root, tmp_path / one.root.name)) for one in (result.pool, result.labels)]
    pool, labels = ImagePool(folders[0]), PseudoLabels(folders[1])
    write_facts(pool.root, pool.facts.model_copy(update={"num_images": 14}))
    write_facts(labels.root, labels.facts.model_copy(update={"num_images": 14, "empty": 14, "classes": {}}))
    section = result.config.distill.model_copy(update={"unlabelled": UnlabelledConfig(pseudo=None, images=5)})
    run = replace(result, config=result.config.model_copy(update={"distill": section}), pool=pool, labels=labels)
    assert summarize(run)["data"]["unlabelled"]["num_learned"] == 5
    text = render(summarize(run))
    assert "unlabeled images: 14, of which 5 are learned; none has targets: only features are compared" in text
    assert "precision and recall of targets" not in text
    write_report(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "14 images, of which 5 are learned. None has targets: only features are compared." in page


def test_the_report_shows_the_table_the_warning_and_pictures(result: RunResult, tmp_path: Path) -> None:
    write_report(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="unlabelled"' in page
    assert WARNING in page
    assert "targets 1, ignored 1" in page
    assert "photo.png" in page
    write_report(replace(result, pool=None, labels=None), tmp_path / "plain.html")
    assert 'id="unlabelled"' not in (tmp_path / "plain.html").read_text(encoding="utf-8")
