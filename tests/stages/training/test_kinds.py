"""Teachers and students of different kinds, and a detector that is one new file."""

import math
from pathlib import Path

import pytest
import tiny
import torch
from detector_samples import TINY

from stages.artifacts import Dataset
from stages.config import DetectorConfig
from stages.detectors import Detector
from stages.training.batches.loader import TrainingBatch, TrainingImages, loader
from stages.training.batches.streams import EpochBatches
from stages.training.checkpoint import build_detector
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.loop import Task, Trainer
from stages.training.teacher import Teacher

PAIRS = [
    ("rt_detr_v2", "ssdlite"),
    ("faster_rcnn", "fcos"),
    ("retinanet", "faster_rcnn"),
    ("fcos", "rf_detr"),
    ("mask_rcnn", "retinanet"),
    ("d_fine", "ssd"),
    ("cascade_rcnn", "fcos"),
    ("retinanet", "cascade_rcnn"),
    ("dynamic_rcnn", "ssdlite"),
    ("fcos", "dynamic_rcnn"),
    ("cascade_mask_rcnn", "faster_rcnn"),
    ("mask_rcnn", "cascade_mask_rcnn"),
    ("atss", "ssdlite"),
    ("faster_rcnn", "atss"),
    ("gfl", "fsaf"),
    ("fsaf", "gfl"),
    ("reppoints", "ssdlite"),
    ("faster_rcnn", "reppoints"),
    ("yolox", "ssdlite"),
    ("atss", "yolox"),
    ("grid_rcnn", "fcos"),
    ("retinanet", "grid_rcnn"),
]
RESUMED = ("atss", "gfl", "fsaf", "reppoints", "yolox")
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


@pytest.mark.parametrize("name", RESUMED)
def test_a_training_broken_off_ends_with_the_same_weights(dataset: Dataset, name: str, tmp_path: Path) -> None:
    def trainer(folder: str) -> Trainer:
        (tmp_path / folder).mkdir(exist_ok=True)
        config = tiny.schedule(epochs=2, batch_size=6)
        return Trainer(Task(build(name, 0)), dataset, config, seed=0, device="cpu", folder=tmp_path / folder, label=name)

    whole, broken = trainer("whole").run().state_dict(), trainer("broken")
    take = broken.step

    def stop_at_the_third(batch: TrainingBatch) -> list[dict[str, float]]:
        if broken._progress.step == 3:
            raise InterruptedError
        return take(batch)

    broken.step = stop_at_the_third  # type: ignore[method-assign]
    with pytest.raises(InterruptedError):
        broken.run()
    resumed = trainer("broken").run().state_dict()
    assert all(torch.equal(resumed[key], tensor) for key, tensor in whole.items())


@pytest.mark.parametrize("name", ["faster_rcnn", "d_fine"])
def test_what_ran_before_in_the_process_does_not_matter(dataset: Dataset, name: str, tmp_path: Path) -> None:
    found = []
    for state in (1, 2):
        (tmp_path / str(state)).mkdir()
        task, config = Task(build(name, 0)), tiny.schedule(epochs=1, batch_size=6)
        torch.manual_seed(state)
        trainer = Trainer(task, dataset, config, seed=0, device="cpu", folder=tmp_path / str(state), label=name)
        found.append(trainer.run().state_dict())
    assert all(torch.equal(found[1][key], tensor) for key, tensor in found[0].items())
