"""Weights of a checkpoint folder: what it says of them is compared with the data before they are used."""

import json
from pathlib import Path
from typing import Any

import artifact_samples
import detector_samples
import pytest
import tiny

from deploy.contract import ModelContract
from deploy.errors import ArtifactError
from stages.artifacts import Dataset
from stages.config import ExportConfig, StudentConfig, TeacherConfig
from stages.train import identity, train_teacher
from stages.training.checkpoint import build_detector, save, starting_detector

CLASSES = ("cat", "traffic light", "dog")


def contract(classes: tuple[str, ...] = CLASSES, **preprocessing: Any) -> ModelContract:
    size = {"height": 64, "width": 64}
    return ModelContract.model_validate({"preprocessing": size | preprocessing, "classes": classes, "category_ids": range(len(classes))})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of a detector of three classes."""
    made = tmp_path / "checkpoint"
    made.mkdir()
    detector = build_detector(tiny.detector(), len(CLASSES), 3)
    save(made, detector, tiny.detector(), contract(), 0, artifact_samples.accuracy(), detector_samples.decisions())
    return made


def start(folder: Path, data: ModelContract) -> None:
    starting_detector(tiny.detector(), str(folder), data, 0)


def test_the_same_classes_in_the_same_order_are_taken_however_they_are_spelled(folder: Path) -> None:
    start(folder, contract())
    start(folder, contract(("Cat", "traffic_light", "dog")))


@pytest.mark.parametrize("classes", [("dog", "traffic light", "cat"), ("owl", "traffic light", "dog")])
def test_classes_in_another_order_and_other_classes_are_refused(folder: Path, classes: tuple[str, ...]) -> None:
    with pytest.raises(
        ArtifactError, match=rf"checkpoint: class 0 is cat in the weights and {classes[0]} in the data; put the data's"
    ) as error:
        start(folder, contract(classes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("color", "bgr", "color rgb, not bgr"),
        ("mean", (0, 0, 0), r"mean \(0.485, 0.456, 0.406\), not \(0.0"),
        ("std", (1, 1, 1), "std"),
    ],
)
def test_other_values_of_pixels_are_refused(folder: Path, key: str, value: Any, why: str) -> None:
    with pytest.raises(ArtifactError, match=rf"checkpoint were trained with data\.preprocessing\.{why}"):
        start(folder, contract(**{key: value}))


def test_other_sizes_of_images_are_taken(folder: Path) -> None:
    start(folder, contract(height=96, width=128, resize="stretch"))


def test_a_file_or_a_folder_that_says_nothing_is_taken_as_it_is(folder: Path) -> None:
    start(folder / "weights.safetensors", contract(("a", "b", "c")))
    for text in ('{"epochs": 3}', "not JSON", "[1]"):
        (folder / "artifact.json").write_text(text)
        start(folder, contract(("a", "b", "c")))
    (folder / "artifact.json").unlink()
    start(folder, contract(("a", "b", "c")))


def test_a_teacher_whose_classes_are_in_another_order_is_not_loaded(tmp_path: Path) -> None:
    data: Dataset = tiny.dataset(tmp_path / "data")
    own = data.facts.contract
    made, out = tmp_path / "made", tmp_path / "out"
    for place in (made, out):
        place.mkdir()
    detector, order = build_detector(tiny.detector(), len(own.classes), 3), own.model_copy(update={"classes": own.classes[::-1]})
    save(made, detector, tiny.detector(), order, 0, artifact_samples.accuracy(), detector_samples.decisions())
    config = TeacherConfig(detector=tiny.detector(), weights=str(made))
    with pytest.raises(ArtifactError, match="made: class 0 is"):
        train_teacher(out, config, 0, "cpu", "val", data, ExportConfig())


def test_what_the_folder_says_is_part_of_the_stages_key(folder: Path) -> None:
    config = StudentConfig(detector=tiny.detector(), weights=str(folder))
    first = identity(config)
    facts = json.loads((folder / "artifact.json").read_text())
    facts["contract"]["classes"] = list(CLASSES[::-1])
    (folder / "artifact.json").write_text(json.dumps(facts))
    assert identity(config) != first
    facts["contract"]["classes"] = list(CLASSES)
    (folder / "artifact.json").write_text(json.dumps(facts | {"epochs": 7}))
    assert identity(config) == first
