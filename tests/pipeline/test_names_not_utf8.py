"""Files whose names are not UTF-8, as old systems and archives leave them: their images are used like all others."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import unlabeled_samples
from PIL import Image

from deploy.accuracy.coco import evaluate
from deploy.errors import DataError
from pipeline import cli
from pipeline.store.files import replace_json
from stages.artifacts import Dataset
from stages.collect import collect
from stages.config import DataConfig, DetectorConfig
from stages.facts import DatasetFacts, read_facts
from stages.prepare import identity, prepare
from stages.training.digests import option_digests

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")

LATIN = os.fsdecode(b"caf\xe9")
BOX = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>25</xmax><ymax>25</ymax></bndbox>"
LAYOUTS = ("yolo", "voc", "coco")


def folder(root: Path, layout: str) -> Path:
    """Two splits of two images, one of them with a name in Latin-1, in a folder with such a name."""
    for number, split in enumerate(("train", "val")):
        for index, stem in enumerate((LATIN, "plain")):
            coarse = np.random.default_rng(2 * number + index).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            file = root / place(layout, split) / LATIN / f"{stem}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).save(file)
            if layout == "yolo":
                label = root / f"labels/{split}" / LATIN / f"{stem}.txt"
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text("0 0.5 0.5 0.3 0.4\n")
            elif layout == "voc":
                thing = f"<object><name>cat</name>{BOX}</object>"
                file.with_suffix(".xml").write_text(f"<annotation><filename>old.png</filename>{thing}</annotation>")
        if layout == "coco":
            save_coco(root, split, [f"{LATIN}/{LATIN}.png", f"{LATIN}/plain.png"])
    if layout == "yolo":
        (root / "classes.txt").write_text("cat\n")
    return root


def place(layout: str, split: str) -> str:
    return split if layout == "voc" else f"images/{split}"


def save_coco(root: Path, split: str, names: list[str]) -> None:
    images = [{"id": number, "file_name": name, "width": 64, "height": 48} for number, name in enumerate(names)]
    rows = [{"id": number, "image_id": number, "category_id": 1, "bbox": [5, 5, 20, 20]} for number in range(len(names))]
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def config(root: Path, layout: str) -> DataConfig:
    size = {"height": 64, "width": 64}
    return DataConfig.model_validate({"dataset": layout, "root": str(root), "preprocessing": size})


def prepared(tmp_path: Path, layout: str) -> Dataset:
    out = tmp_path / "out"
    out.mkdir()
    return prepare(out, config(folder(tmp_path / LATIN, layout), layout))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_their_images_are_prepared_and_found_again(tmp_path: Path, layout: str) -> None:
    dataset = prepared(tmp_path, layout)
    assert identity(config(tmp_path / LATIN, layout)) == identity(config(tmp_path / LATIN, layout))
    table, written = dataset.table("val"), json.loads(dataset.annotations("val").read_text())
    names = [table.name(index) for index in range(len(table))]
    assert [Path(name).name for name in names] == [f"{LATIN}.png", "plain.png"]
    assert [row["file_name"] for row in written["images"]] == names
    assert all((dataset.images("val") / name).is_file() for name in names)
    assert len(table.boxes) == len(written["annotations"]) == 2


def test_notes_that_name_them_are_read_back(tmp_path: Path) -> None:
    (note, _) = prepared(tmp_path, "voc").facts.notes
    assert (note.kind, note.count, note.images) == (
        "image named differently from its file",
        2,
        (f"{LATIN}/{LATIN}.png", f"{LATIN}/plain.png"),
    )
    assert read_facts(tmp_path / "out", DatasetFacts).notes[0] == note


def test_accuracy_is_judged_on_them(tmp_path: Path) -> None:
    truth = json.loads(prepared(tmp_path, "coco").annotations("val").read_text())
    found = [{"image_id": row["image_id"], "category_id": 1, "bbox": row["bbox"], "score": 0.9} for row in truth["annotations"]]
    accuracy, _ = evaluate(truth, found, "val", ["cat"])
    assert accuracy.map == pytest.approx(1)


def test_what_is_written_at_the_end_of_a_run_may_name_them(tmp_path: Path) -> None:
    replace_json(tmp_path / "summary.json", {"first": LATIN})
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == {"first": LATIN}


def test_they_are_used_without_labels(tmp_path: Path) -> None:
    dataset, pool = prepared(tmp_path, "coco"), tmp_path / "pool"
    pool.mkdir()
    coarse = np.random.default_rng(9).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(coarse).save(pool / f"{LATIN}.png")
    (tmp_path / "collected").mkdir()
    found = collect(tmp_path / "collected", unlabeled_samples.data_config(pool), dataset)
    assert [Path(row["file_name"]).name for row in found.images()] == [f"{LATIN}.png"]


def test_the_page_of_init_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "data", "coco")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "data", "--minutes", "3", "--preview"]) == 0
    assert "caf\\udce9" in (tmp_path / "pipeline.preview.html").read_text(encoding="utf-8")


def test_weights_in_such_a_folder_have_a_digest(tmp_path: Path) -> None:
    (tmp_path / f"{LATIN}.bin").write_bytes(b"x")
    choice = DetectorConfig.model_validate({"name": "rt_detr_v2", "weights": str(tmp_path)})
    assert option_digests(choice)["detector.weights"]


def test_a_name_that_no_file_can_have_is_refused_in_one_line(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", "coco")
    save_coco(root, "train", ["a\ud800.png"])
    with pytest.raises(DataError, match=r"instances_train\.json: image 0 has a file_name that no file can have: 'a\\ud800\.png'$"):
        prepare(tmp_path, config(root, "coco"))
