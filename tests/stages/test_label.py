"""What a teacher finds in images without labels, from the pool to the targets."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import unlabeled_samples
from PIL import Image

from deploy.accuracy.judge import LabeledSplit
from deploy.contract import ModelContract
from deploy.errors import DataError
from stages.artifacts import Checkpoint, Dataset, ImagePool, PseudoLabels
from stages.config import ExportConfig, TeacherConfig, UnlabelledConfig
from stages.label import label
from stages.train import train_teacher

EXPORT = ExportConfig(score_threshold=0.001, candidates=50, max_detections=20)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> ImagePool:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(9):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((100, 50)).save(folder / f"{number}.jpg")
    return unlabeled_samples.pool(tmp_path_factory.mktemp("pool"), data, folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Checkpoint:
    config = TeacherConfig(detector=tiny.detector(), train=tiny.schedule(epochs=0))
    return train_teacher(tmp_path_factory.mktemp("teacher"), config, 0, "cpu", "val", data, EXPORT)


def labeled(out: Path, data: Dataset, pool: ImagePool, teacher: Checkpoint, section: object) -> PseudoLabels:
    return label(out, UnlabelledConfig.model_validate(section), "cpu", "val", data, pool, teacher, EXPORT)


def test_frames_of_videos_are_found_again_in_a_store_that_was_moved(
    tmp_path: Path, data: Dataset, pool: ImagePool, teacher: Checkpoint
) -> None:
    """A pool that has one file of its own, as frames are, and one elsewhere."""
    store = tmp_path / "store"
    frames = store / "collect-1" / "frames"
    frames.mkdir(parents=True)
    first, second = pool.images()[:2]
    shutil.copy(first["file_name"], frames / "0.jpg")
    rows = [{**first, "file_name": "frames/0.jpg"}, second]
    (store / "collect-1" / "images.json").write_text(json.dumps({"images": rows}), encoding="utf-8")
    (store / "label-1").mkdir()
    found = labeled(store / "label-1", data, ImagePool(store / "collect-1"), teacher, {"pseudo": {"threshold": 0.004}})
    names = [row["file_name"] for row in found.coco()["images"]]
    assert names == [str(frames / "0.jpg"), second["file_name"]]
    moved = store.rename(tmp_path / "moved")
    names = [row["file_name"] for row in PseudoLabels(moved / "label-1").coco()["images"]]
    assert names == [str(moved / "collect-1" / "frames" / "0.jpg"), second["file_name"]]


def test_detections_are_in_px_of_the_images_and_counted_by_class(
    tmp_path: Path, data: Dataset, pool: ImagePool, teacher: Checkpoint
) -> None:
    found = labeled(tmp_path, data, pool, teacher, {"pseudo": {"threshold": 0.004}})
    coco, facts = found.coco(), found.facts
    assert coco["images"] == pool.images()
    assert coco["annotations"]
    for one in coco["annotations"]:
        x, y, width, height = one["bbox"]
        assert 0 <= x <= x + width <= 100.01
        assert 0 <= y <= y + height <= 50.01
        assert {"image_id", "category_id", "score"} <= one.keys()
    assert list(facts.classes) == list(data.facts.contract.classes)
    targets = sum(one["score"] >= 0.004 for one in coco["annotations"])
    assert sum(one.accepted for one in facts.classes.values()) == targets
    with_targets = {one["image_id"] for one in coco["annotations"] if one["score"] >= 0.004}
    assert (facts.num_images, facts.empty) == (9, 9 - len(with_targets))


def test_without_pseudo_labels_no_threshold_is_needed(tmp_path: Path, data: Dataset, pool: ImagePool, teacher: Checkpoint) -> None:
    found = labeled(tmp_path, data, pool, teacher, {"pseudo": None}).facts
    assert not found.classes
    assert found.num_images == 9


def test_views_are_joined_if_that_is_better_on_labeled_images(
    tmp_path: Path, data: Dataset, pool: ImagePool, teacher: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = iter((0.3, 0.5, 0.5, 0.4))

    def evaluated(split: LabeledSplit, results: list[dict[str, Any]], contract: ModelContract) -> SimpleNamespace:
        assert {row["id"] for row in split.truth["images"]} >= {one["image_id"] for one in results}
        return SimpleNamespace(accuracy=SimpleNamespace(map=next(judged)))

    monkeypatch.setattr("stages.training.unlabeled.looking.evaluated", evaluated)
    facts = labeled(tmp_path, data, pool, teacher, {"pseudo": {"threshold": 0.004}}).facts
    assert (facts.views, facts.map, facts.plain_map) == (("mirror",), 0.5, 0.3)


def test_joined_views_are_within_the_image(tmp_path: Path, data: Dataset, pool: ImagePool, teacher: Checkpoint) -> None:
    plain, joined = tmp_path / "plain", tmp_path / "joined"
    for folder in (plain, joined):
        folder.mkdir()
    one = labeled(plain, data, pool, teacher, {"pseudo": {"threshold": 0.004, "views": []}})
    other = labeled(joined, data, pool, teacher, {"pseudo": {"threshold": 0.004, "views": ["zoom", "mirror"]}})
    assert one.facts.views == ()
    assert other.facts.views == ("mirror", "zoom")
    assert other.facts.plain_map is not None
    assert one.coco()["annotations"] != other.coco()["annotations"]
    for found in other.coco()["annotations"]:
        x, y, width, height = found["bbox"]
        assert -0.01 <= x <= x + width <= 100.01
        assert -0.01 <= y <= y + height <= 50.01
        assert 0 < found["score"] <= 1


def test_images_of_something_else_are_warned_of_and_images_of_the_same_are_not(tmp_path: Path) -> None:
    data = tiny.dataset(tmp_path / "data", train_images=16, val_images=16)
    stripes = tmp_path / "stripes"
    stripes.mkdir()
    for number in range(10):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[:, :: 2 + number % 3] = 255 - number
        Image.fromarray(pixels).save(stripes / f"{number}.png")
    others = tiny.dataset(tmp_path / "others", train_images=10, seed=1).images("train")
    for name in ("teacher", "same", "unlike"):
        (tmp_path / name).mkdir()
    config = TeacherConfig(detector=tiny.detector(), train=tiny.schedule(epochs=0))
    network = train_teacher(tmp_path / "teacher", config, 0, "cpu", "val", data, EXPORT)
    found = {
        name: labeled(tmp_path / name, data, unlabeled_samples.pool(tmp_path / f"{name} pool", data, folder), network, {"pseudo": None})
        for name, folder in (("same", others), ("unlike", stripes))
    }
    assert any("are unlike the labeled ones" in line for line in found["unlike"].facts.warnings)
    assert not any("are unlike the labeled ones" in line for line in found["same"].facts.warnings)


def test_a_file_that_has_gone_since_it_was_collected_is_named(tmp_path: Path, data: Dataset, pool: ImagePool, teacher: Checkpoint) -> None:
    rows = pool.images()
    file = Path(rows[4]["file_name"])
    content = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(DataError, match=r"4\.jpg"):
            labeled(tmp_path, data, pool, teacher, {"pseudo": {"threshold": 0.5}})
    finally:
        file.write_bytes(content)
