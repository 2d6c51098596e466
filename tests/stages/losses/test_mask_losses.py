"""Losses and detectors with masks: the pyramid and the mask logits of given regions reach the student, masks and all."""

import shutil
from pathlib import Path
from typing import Any

import detector_samples
import pytest
import tiny
import torch
from torch import nn

from deploy import plugins
from deploy.errors import ConfigError
from stages.detectors import Detector
from stages.training.batches.loader import TrainingBatch
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.teacher import Teacher

REGION_MASKS = '''
"""The teacher's masks of the objects' own boxes, in the frame of each box."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from stages.losses import Loss, NetworkSide

READS = ("regions", "targets")
INVARIANT_TO = ("batch",)


class RegionMasks(Loss):
    def forward(self, student, teacher, targets):
        boxes, labels = [target.boxes for target in targets], torch.cat([target.labels for target in targets])
        own, other = (outputs.regions(boxes, masks=True).masks[torch.arange(len(labels)), labels] for outputs in (student, teacher))
        other = interpolate(other[:, None], own.shape[-2:], mode="bilinear")[:, 0]
        return {"masks": binary_cross_entropy_with_logits(own, other.sigmoid())}


def build(student: NetworkSide, teacher: NetworkSide) -> Loss:
    """Of masks."""
    for role, side in (("student", student), ("teacher", teacher)):
        if side.mask_frame != "box":
            raise ValueError(f"the {role}, {side.detector}, has no masks of boxes; choose mask_rcnn or cascade_mask_rcnn")
    return RegionMasks()
'''

WITH_MASKS = ("mask_rcnn", "cascade_mask_rcnn")
MASK_HEADS = ("mask_head", "mask_predictor")


@pytest.fixture(autouse=True)
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import losses

    folder = tmp_path / "losses"
    shutil.copytree(plugins.folder("stages.losses"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "region_masks.py").write_text(REGION_MASKS, encoding="utf-8")
    monkeypatch.setattr(losses, "__path__", [str(folder)])
    assert losses.__spec__ is not None
    monkeypatch.setattr(losses.__spec__, "submodule_search_locations", [str(folder)])


def distillation(names: list[str], student: Detector, teacher: Detector) -> Distillation:
    config = tiny.distillation(losses=[{"name": name} for name in names])
    return Distillation(student, Teacher(teacher), build_losses(config, student, teacher, 0), loss_factor(config, 9)).train()


def batch(detector: Detector, name: str) -> TrainingBatch:
    return TrainingBatch(detector_samples.images(name), detector_samples.targets(detector, name))


def of_masks(detector: nn.Module) -> list[nn.Parameter]:
    return [parameter for name, parameter in detector.named_parameters() if any(part in name for part in MASK_HEADS)]


@pytest.mark.parametrize("large", WITH_MASKS)
@pytest.mark.parametrize("small", WITH_MASKS)
def test_a_loss_on_the_masks_of_regions_reaches_the_students_mask_heads_and_nothing_of_the_teacher(small: str, large: str) -> None:
    student, teacher = detector_samples.tiny(small, 0), detector_samples.tiny(large, 5)
    task = distillation(["region_masks"], student, teacher)
    given = batch(student, small)
    _, terms = task(given, task.prepare(given, 0))
    term: Any = terms["region_masks/masks"]
    assert torch.isfinite(term)
    term.backward()
    assert of_masks(student)
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in of_masks(student))
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("name", WITH_MASKS)
def test_losses_on_the_pyramid_change_what_its_mask_heads_see(name: str) -> None:
    student, teacher = detector_samples.tiny(name, 0), detector_samples.tiny("mask_rcnn", 5)
    task = distillation(["attention", "non_local"], student, teacher)
    given = batch(student, name)
    total, terms = task(given, task.prepare(given, 0))
    assert any(term.partition("/")[0] in ("attention", "non_local") for term in terms)
    assert any("loss_mask" in term for term in terms), "its own masks are learned at the same time"
    total.backward()
    assert all(parameter.grad is not None for parameter in of_masks(student))


def test_a_network_without_masks_is_refused_in_the_losses_words() -> None:
    student, teacher = detector_samples.tiny("mask_rcnn", 0), detector_samples.tiny("faster_rcnn", 5)
    with pytest.raises(ConfigError, match=r"distill.losses: region_masks: the teacher, faster_rcnn, has no masks of boxes"):
        distillation(["region_masks"], student, teacher)
