"""What a teacher makes of images, shared by trainings: bit for bit what it computes, and never of other images."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import detector_samples
import pytest
import tiny
import torch
from torch import Tensor

from deploy import plugins
from stages.artifacts import Dataset
from stages.detectors import Detector, Outputs
from stages.training.batches.shared_folder import shared_in
from stages.training.checkpoint import build_detector
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.loop import Trainer
from stages.training.teacher import Teacher

ROOM = 10**8
ASKED: dict[str, Callable[[Outputs], object]] = {
    "decoded": lambda outputs: outputs.decoded().boxes,
    "regions": lambda outputs: outputs.regions([torch.tensor([[4.0, 4.0, 40.0, 30.0]])] * 2).class_logits,
    "teacher_head": lambda outputs: sorted(outputs.head_on(outputs.pyramid).head.items()),
    "towers": lambda outputs: outputs.towers(1).classes,
    "decoder_queries": lambda outputs: outputs.decode_queries().class_logits,
}
"""What else a loss may ask of outputs."""


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for one in value for tensor in tensors(one)] if isinstance(value, tuple | list) else []


def of(outputs: Outputs, detector: Detector) -> list[Tensor]:
    """Everything that losses can read."""
    asked = [ASKED[name](outputs) for name in detector.gives if name in ASKED]
    return tensors([outputs.pyramid, sorted(outputs.head.items()), outputs.proposals or (), asked])


@pytest.mark.parametrize("name", plugins.names("stages.detectors"))
def test_every_detector_is_recalled_to_the_last_bit(name: str, tmp_path: Path) -> None:
    detector, images = detector_samples.tiny(name), detector_samples.images(name)
    computed = Teacher(detector)
    expected = of(computed(images), detector)
    with shared_in(tmp_path, "teacher", ROOM):
        for batch in (images, 2 * images, images):  # the network has seen others in between
            found = Teacher(detector)(batch)
    seen = of(found, detector)
    assert len(list((tmp_path / "teacher").iterdir())) == 2
    assert found.size == detector_samples.SIZE
    assert len(seen) == len(expected)
    assert all(torch.equal(own, other) and own.stride() == other.stride() for own, other in zip(seen, expected, strict=True))


class CountingDetector(Detector):
    """Counts how often it runs on a batch; folding looks at one image."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.inner, self.runs = detector, 0

    def forward(self, images: Tensor, targets: object = None) -> Outputs:
        """As the detector."""
        self.runs += len(images) > 1
        found: Outputs = self.inner(images)
        return replace(found, network=self)

    graph = None  # type: ignore[assignment]


CountingDetector.__abstractmethods__ = frozenset()


def teacher() -> CountingDetector:
    return CountingDetector(build_detector(tiny.detector(tiny.TEACHER), 10, 5))


def runs(folder: Path, *batches: Tensor, most_bytes: int = ROOM, name: str = "teacher") -> int:
    """How often a teacher runs for these batches."""
    with shared_in(folder, name, most_bytes):
        guide = Teacher(counted := teacher())
    for batch in batches:
        guide(batch)
    return counted.runs


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class TestAFolder:
    def test_what_has_been_computed_is_not_computed_again(self, tmp_path: Path) -> None:
        assert runs(tmp_path, IMAGES, IMAGES + 1) == 2
        assert runs(tmp_path, IMAGES + 1, IMAGES) == 0
        assert runs(tmp_path, IMAGES.flip(0)) == 1

    def test_another_precision_is_another_answer(self, tmp_path: Path) -> None:
        with shared_in(tmp_path, "teacher", ROOM):
            plain, half = Teacher(teacher()), Teacher(teacher(), "bf16")
        assert not torch.equal(plain(IMAGES).pyramid[0], half(IMAGES).pyramid[0])

    def test_damaged_files_are_computed_again(self, tmp_path: Path) -> None:
        runs(tmp_path, IMAGES)
        (file,) = (tmp_path / "teacher").iterdir()
        file.write_bytes(file.read_bytes()[:-1])
        assert runs(tmp_path, IMAGES) == 1
        assert runs(tmp_path, IMAGES) == 0

    def test_without_room_nothing_is_kept(self, tmp_path: Path) -> None:
        assert runs(tmp_path, IMAGES, IMAGES, most_bytes=1000) == 2
        assert runs(tmp_path, IMAGES, IMAGES, most_bytes=0) == 2

    def test_if_it_is_gone_training_goes_on(self, tmp_path: Path) -> None:
        with shared_in(tmp_path, "teacher", ROOM):
            guide = Teacher(counted := teacher())
        (tmp_path / "teacher").rmdir()
        guide(IMAGES)
        guide(IMAGES)
        assert counted.runs == 2

    def test_a_training_that_is_not_run_makes_none(self, tmp_path: Path) -> None:
        with shared_in(tmp_path / "runs", "teacher", ROOM):
            pass
        assert not (tmp_path / "runs").exists()

    def test_those_longest_unused_make_room(self, tmp_path: Path) -> None:
        for age, name in enumerate(("third", "second", "first")):
            runs(tmp_path, IMAGES, name=name)
            os.utime(tmp_path / name, (age, age))
        size = sum(file.stat().st_size for file in (tmp_path / "first").iterdir())
        assert runs(tmp_path, IMAGES, name="new", most_bytes=5 * size) == 1
        assert sorted(one.name for one in tmp_path.iterdir()) == ["first", "new", "second"]


def weights(dataset: Dataset, folder: Path) -> list[Tensor]:
    """Of a student trained with all losses whose weights are found."""
    student, large = build_detector(tiny.detector(), 10), build_detector(tiny.detector(tiny.TEACHER), 10, 5)
    losses = build_losses(tiny.distillation(losses=[*tiny.AUTO, {"name": "localization"}]), student, large, 0)
    task = Distillation(student, Teacher(large), losses, loss_factor(tiny.distillation(), 9))
    folder.mkdir()
    train = tiny.schedule(augment=[{"name": "scale"}])
    Trainer(task, dataset, train, seed=0, device="cpu", folder=folder, label="distill").run()
    return list(task.state_dict().values())


def test_a_student_learns_the_same(tmp_path: Path) -> None:
    dataset = tiny.dataset(tmp_path / "data")
    alone = weights(dataset, tmp_path / "alone")
    for name in ("first", "second"):
        with shared_in(tmp_path / "shared", "teacher", ROOM):
            found = weights(dataset, tmp_path / name)
        assert all(torch.equal(own, other) for own, other in zip(found, alone, strict=True))
    assert len(list((tmp_path / "shared" / "teacher").iterdir())) == 9
