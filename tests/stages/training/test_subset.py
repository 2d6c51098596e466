"""A teacher of more classes, reduced to some: it answers for them as before."""

from pathlib import Path
from typing import Any

import artifact_samples
import detector_samples
import pytest
import tiny
import torch

from deploy.contract import ModelContract
from deploy.errors import ConfigError
from stages.artifacts import Dataset
from stages.config import DetectorConfig, ExportConfig, TeacherConfig
from stages.detectors import Detector
from stages.train import train_teacher
from stages.training.checkpoint import build_detector, load_detector, save
from stages.training.unlabeled import subset
from stages.training.unlabeled.subset import reduced, refuse_unknown, taught_classes

NAMES = ("owl", "car", "dog", "person", "cat")


def saved(folder: Path, name: str, data: Dataset) -> tuple[TeacherConfig, Detector]:
    """A checkpoint of a detector of five classes."""
    folder.mkdir(parents=True, exist_ok=True)
    choice = DetectorConfig.model_validate({"name": name, **detector_samples.TINY[name]})
    network = build_detector(choice, len(NAMES), seed=3).eval()
    contract = ModelContract(preprocessing=data.facts.contract.preprocessing, classes=NAMES, category_ids=tuple(range(1, 6)))
    accuracy = artifact_samples.accuracy()
    save(folder, network, choice, contract, 0, accuracy, detector_samples.decisions())
    return TeacherConfig(detector=choice, weights=str(folder)), network


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", ["fcos", "retinanet", "yolox", "gfl"])
def test_the_chosen_classes_have_the_same_logits_and_boxes(tmp_path: Path, data: Dataset, name: str) -> None:
    config, large = saved(tmp_path, name, data)
    small = reduced(config, {"person": "person", "vehicle": "car"}, 0).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        many, few = large(images), small(images)
    for level, (every, chosen) in enumerate(zip(many.head["class_logits"], few.head["class_logits"], strict=True)):
        assert torch.allclose(every[..., [3, 1]], chosen, atol=1e-5), level
    for key in many.head.keys() - {"class_logits"}:
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(many.head[key], few.head[key], strict=True))


def test_a_softmax_over_classes_cannot_be_reduced(tmp_path: Path, data: Dataset) -> None:
    config, _ = saved(tmp_path, "faster_rcnn", data)
    with pytest.raises(ConfigError, match="the classes of detector faster_rcnn compete with each other, so none can be left out"):
        reduced(config, {"person": "person"}, 0)


def test_classes_of_coco_are_known_by_name_and_unknown_ones_are_refused() -> None:
    teacher = TeacherConfig(detector=DetectorConfig.model_validate({"name": "fcos", "weights": "COCO_V1"}))
    assert refuse_unknown(teacher, {"pedestrian": "person", "car": "car"}) == [1, 3]
    with pytest.raises(ConfigError, match=r"the teacher has no class 'persn' \(did you mean person\?\); it has person, bicycle, .*more"):
        refuse_unknown(teacher, {"a": "persn"})
    with pytest.raises(ConfigError, match="the teacher starts from no weights of a detector"):
        refuse_unknown(TeacherConfig(detector=tiny.detector()), {"a": "person"})
    with pytest.raises(ConfigError, match=r"weights\.safetensors does not name its classes; set teacher\.weights to a checkpoint folder"):
        refuse_unknown(TeacherConfig(detector=tiny.detector(), weights="weights.safetensors"), {"a": "person"})


def test_every_class_of_the_data_is_taught_in_its_order() -> None:
    assert taught_classes({"b": "cat", "a": "dog"}, ("a", "b")) == {"a": "dog", "b": "cat"}
    with pytest.raises(ConfigError, match=r"the data has no class 'c'.*; it has a, b"):
        taught_classes({"a": "dog", "b": "cat", "c": "owl"}, ("a", "b"))
    with pytest.raises(ConfigError, match="nothing teaches b; name a class of the teacher for it"):
        taught_classes({"a": "dog"}, ("a", "b"))


def test_a_reduced_teacher_is_judged_on_the_data_and_loaded_like_any_other(tmp_path: Path, data: Dataset, monkeypatch: Any) -> None:
    digits = data.facts.contract.classes
    names = (*reversed(digits), "letter")
    monkeypatch.setattr(subset, "known_classes", lambda _: names)
    choice = tiny.detector()
    contract = data.facts.contract.model_copy(update={"classes": names, "category_ids": tuple(range(1, len(names) + 1))})
    folder, out = tmp_path / "large", tmp_path / "teacher"
    for one in (folder, out):
        one.mkdir()
    save(folder, build_detector(choice, len(names), 3), choice, contract, 0, artifact_samples.accuracy(), detector_samples.decisions())
    config = TeacherConfig(detector=choice, weights=str(folder))
    export = ExportConfig(score_threshold=0.001)
    teacher = train_teacher(out, config, 0, "cpu", "val", data, export, None, {name: name for name in digits})
    assert teacher.facts.contract.classes == digits
    assert load_detector(teacher).num_classes == len(digits)
