"""The memory of a plain and of a distilled step: measured on what the student's training really sees."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from stages.artifacts import Dataset
from stages.config import StudentConfig, TeacherConfig
from stages.datasets.unlabeled.pool import UNLABELLED
from stages.facts import StepMemoryFacts
from stages.time_steps import step_options
from stages.training.batches.loader import TrainingBatch
from stages.training.costs import memory
from stages.weigh_steps import weigh_steps


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> list[TrainingBatch]:
    """The batches whose steps were weighed, the plain one first."""
    seen: list[TrainingBatch] = []
    original = memory._peak

    def peak(trainer: Any, batch: TrainingBatch) -> int:
        seen.append(batch)
        return original(trainer, batch)

    monkeypatch.setattr(memory, "_peak", peak)
    return seen


def weigh(out: Path, dataset: Dataset, **distill: Any) -> StepMemoryFacts:
    student = StudentConfig(detector=tiny.detector(), train=tiny.schedule())
    options = step_options(tiny.distillation(**distill), student, TeacherConfig(detector=tiny.detector(tiny.TEACHER)))
    out.mkdir()
    return weigh_steps(out, *options, "cpu", dataset).facts


def test_the_teachers_clean_view_is_there(dataset: Dataset, tmp_path: Path, weighed: list[TrainingBatch]) -> None:
    weigh(tmp_path / "weighed", dataset, student_view={"downscale": 1.0})
    plain, distilled = weighed
    assert plain.clean is None
    assert distilled.clean is not None
    assert torch.equal(distilled.clean, plain.images)
    assert not torch.equal(distilled.clean, distilled.images)


def test_images_without_labels_are_there(dataset: Dataset, tmp_path: Path, weighed: list[TrainingBatch]) -> None:
    with_images = weigh(tmp_path / "more", dataset, unlabelled={"ratio": 2})
    plain, distilled = weighed
    assert not plain.others
    assert len(distilled.others[UNLABELLED].images) == 2 * len(plain.images)
    assert with_images.distilled_bytes > weigh(tmp_path / "usual", dataset).distilled_bytes
