"""Teachers and students of different kinds, and a detector that is one new file."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from detector_samples import TINY, decisions

from deploy import plugins
from stages.artifacts import Dataset
from stages.config import DetectorConfig
from stages.detectors import Detector
from stages.training.checkpoint import build_detector
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.loader import EpochBatches, TrainingBatch, TrainingImages, loader
from stages.training.teacher import Teacher

PAIRS = [
    ("rt_detr_v2", "ssdlite"),
    ("faster_rcnn", "fcos"),
    ("retinanet", "faster_rcnn"),
    ("fcos", "rf_detr"),
    ("mask_rcnn", "retinanet"),
    ("d_fine", "ssd"),
]
SIZE = 128
STEPS = 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data") / "digits", size=SIZE)


def build(name: str, seed: int) -> Detector:
    return build_detector(DetectorConfig.model_validate({"name": name, **TINY[name]}), 10, seed)


def batches(dataset: Dataset, *, masks: bool) -> list[TrainingBatch]:
    """The data set's batches of four, in one fixed view."""
    images = TrainingImages(dataset, tiny.schedule(), seed=0, masks=masks)
    return list(loader(images, EpochBatches(len(images), 4, 0, 0, 1), workers=0))


@pytest.mark.parametrize(("large", "small"), PAIRS, ids=[f"{large} to {small}" for large, small in PAIRS])
def test_a_student_learns_from_a_teacher_of_another_kind(dataset: Dataset, large: str, small: str) -> None:
    teacher, student = build(large, 5), build(small, 0)
    config = tiny.distillation(losses=[{**loss, "missing": "interpolate"} for loss in tiny.LOSSES])
    task = Distillation(student, Teacher(teacher), build_losses(config, student, teacher, 0), loss_factor(config, STEPS)).train()
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-4)
    seen: list[dict[str, float]] = []
    batch = batches(dataset, masks=student.mask_frame is not None)[0]
    for step in range(STEPS):
        total, terms = task(batch, task.prepare(batch, step))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append({"total": total.item(), **{name: value.item() for name, value in terms.items()}})
    assert all(math.isfinite(value) for row in seen for value in row.values())
    for name in ("total", "attention/feature", "non_local/relation"):
        first, last = (sum(value for row in part for term, value in row.items() if term.startswith(name)) for part in (seen[:4], seen[-4:]))
        assert last < first, name


def test_a_detector_is_one_new_file(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file dropped into the folder is built from pipeline.yaml's options, distilled and exported, with no edit elsewhere."""
    import stages.detectors as package
    from stages.exports.to_onnx import write_onnx

    folder = tmp_path / "detectors"
    shutil.copytree(plugins.folder("stages.detectors"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "dropped_in.py").write_text(_DROPPED_IN, encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [str(folder)])
    assert package.__spec__ is not None
    monkeypatch.setattr(package.__spec__, "submodule_search_locations", [str(folder)])
    assert "dropped_in" in plugins.names("stages.detectors")
    choice: dict[str, Any] = {"name": "dropped_in", "width": 16}
    student = build_detector(DetectorConfig.model_validate(choice), 10, 0)
    teacher = build("fcos", 5)
    config = tiny.distillation()
    task = Distillation(student, Teacher(teacher), build_losses(config, student, teacher, 0), loss_factor(config, STEPS)).train()
    batch = batches(dataset, masks=False)[0]
    total, terms = task(batch, task.prepare(batch, 0))
    total.backward()
    assert any(term.startswith("attention/feature/") for term in terms)
    assert all(parameter.grad is not None for parameter in student.parameters())
    write_onnx(student.graph(decisions(max_detections=5)).eval(), (SIZE, SIZE), tmp_path / "model.onnx")


_DROPPED_IN = '''
"""FCOS of one level, under another name."""

from stages.detectors import Detector
from stages.detectors.fcos import build as build_fcos


def build(num_classes: int, *, width: int = 8) -> Detector:
    """A small detector.

    Args:
        width: channels after the stem.
    """
    options = {"backbone": "resnet10", "fpn_channels": 32, "head_convs": 1, "range_scale": 0.5}
    return build_fcos(num_classes, width=width, strides=(8,), **options)
'''
