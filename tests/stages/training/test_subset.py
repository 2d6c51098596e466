"""A teacher of more classes, reduced to some: it answers for them as before."""

import json
from pathlib import Path
from typing import Any

import artifact_samples
import detector_samples
import pytest
import tiny
import torch
import zoo_samples

from deploy.contract import ModelContract
from deploy.errors import ArtifactError, ConfigError
from stages.artifacts import Dataset
from stages.config import DetectorConfig, ExportConfig, TeacherConfig
from stages.detectors import Detector
from stages.detectors.set_prediction import hub
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


def rt_detr(folder: Path, **named: Any) -> DetectorConfig:
    """A folder of transformers' with a network of three classes, whose queries are all positions of an image of 64 x 64 px."""
    tiny_options = {"name": "rt_detr_v2", **detector_samples.TINY["rt_detr_v2"], "queries": 84}
    network: Any = build_detector(DetectorConfig.model_validate(tiny_options), 3, seed=3)
    for name, parameter in network.named_parameters():
        if "class_embed" in name or "enc_score_head" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    model = hub.library().RTDetrV2ForObjectDetection(network.config)
    model.model.load_state_dict(network.network.state_dict())
    model.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **named}))
    return DetectorConfig.model_validate({"name": "rt_detr_v2", "weights": str(folder)})


def test_a_folder_of_transformers_names_its_classes_and_is_reduced_to_some(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    choice = rt_detr(tmp_path, id2label={"0": "owl", "1": "car", "2": "dog"}, label2id={"owl": 0, "car": 1, "dog": 2})
    small = reduced(TeacherConfig(detector=choice), {"hound": "dog", "bird": "owl"}, 0).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        many, few = (network(images).head for network in (build_detector(choice, 3).eval(), small))
    nearest = torch.cdist(few["boxes"][0][0], many["boxes"][0][0]).argmin(dim=1)  # queries are in the order of their best class
    assert sorted(nearest.tolist()) == list(range(84))
    assert torch.allclose(many["boxes"][0][0, nearest], few["boxes"][0][0], atol=1e-5)
    assert torch.allclose(many["class_logits"][0][0, nearest][:, [2, 0]], few["class_logits"][0][0], atol=1e-4)


@pytest.mark.parametrize("labels", [{"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, {"0": "owl", "2": "car", "3": "dog"}, {}])
def test_a_folder_of_transformers_that_does_not_name_each_class_is_refused(tmp_path: Path, labels: dict[str, str]) -> None:
    pytest.importorskip("transformers")
    choice = rt_detr(tmp_path, id2label=labels)
    with pytest.raises(ConfigError, match="do not name their classes; use a checkpoint folder as teacher"):
        refuse_unknown(TeacherConfig(detector=choice), {"bird": "owl"})


def yolox(file: Path, **rest: Any) -> TeacherConfig:
    """A teacher from a file of MMDetection's with five classes."""
    zoo_samples.write(file, zoo_samples.state_dict("yolox"), **rest)
    return TeacherConfig(detector=DetectorConfig.model_validate({**zoo_samples.KINDS["yolox"], "weights": str(file)}))


def test_a_file_of_mmdetections_names_its_classes_and_is_reduced_to_some(tmp_path: Path) -> None:
    config = yolox(tmp_path / "yolox.pth")
    small = reduced(config, {"a": "fig", "b": "apple", "c": "nut"}, 0).eval()
    with torch.no_grad():
        many, few = (network(zoo_samples.image()).head for network in (build_detector(config.detector, 5).eval(), small))
    for every, chosen in zip(many["class_logits"], few["class_logits"], strict=True):
        assert torch.allclose(every[..., [3, 0, 4]], chosen, atol=1e-5)
        assert every.std() > 0.1
    with pytest.raises(ConfigError, match=r"no class 'figg' \(did you mean fig\?\); it has apple, pear, plum, fig, nut"):
        reduced(config, {"a": "figg"}, 0)


def test_a_file_of_mmdetections_without_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="do not name their classes"):
        refuse_unknown(yolox(tmp_path / "yolox.pth", meta={}), {"a": "fig"})


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


class TestPixels:
    def teach(self, out: Path, config: TeacherConfig, data: Dataset, name: str) -> None:
        out.mkdir()
        train_teacher(out, config, 0, "cpu", "val", data, ExportConfig(), None, dict.fromkeys(data.facts.contract.classes, name))

    def test_a_reduced_teacher_of_mmdetections_needs_the_values_that_it_learned(self, tmp_path: Path, data: Dataset) -> None:
        with pytest.raises(ArtifactError, match=r"yolox\.pth were trained with data\.preprocessing\.color bgr, not rgb; set it to that"):
            self.teach(tmp_path / "out", yolox(tmp_path / "yolox.pth"), data, "fig")

    def test_a_reduced_checkpoint_needs_the_values_that_it_learned(self, tmp_path: Path, data: Dataset) -> None:
        config, _ = saved(tmp_path / "large", "fcos", data)
        facts = json.loads((tmp_path / "large/artifact.json").read_text())
        facts["contract"]["preprocessing"]["mean"] = [0.5, 0.5, 0.5]
        (tmp_path / "large/artifact.json").write_text(json.dumps(facts))
        with pytest.raises(ArtifactError, match=r"large were trained with data\.preprocessing\.mean \(0\.5, 0\.5, 0\.5\), not \(0\.485"):
            self.teach(tmp_path / "out", config, data, "car")
