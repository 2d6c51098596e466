"""Trainings that are judged on their way: what is seen, and that nothing else changes."""

import copy
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import artifact_samples
import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from deploy.accuracy.judge import Judged
from deploy.comparison.learning_curve import LearningCurve, still_rising
from deploy.errors import ArtifactError
from stages.artifacts import Checkpoint, Dataset
from stages.config import ExportConfig, StudentConfig, TeacherConfig
from stages.facts import write_facts
from stages.measurement import torch_accuracy
from stages.measurement.splits import labeled_split, some
from stages.train import train_baseline, train_teacher
from stages.training import observer
from stages.training.batches.loader import TrainingBatch
from stages.training.checkpoint import build_detector, load_detector
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.loop import Task, Trainer
from stages.training.observer import Observer
from stages.training.saved_state import Progress
from stages.training.teacher import Teacher

EXPORT = ExportConfig(candidates=50, max_detections=10)
NETWORK = {**tiny.STUDENT, "strides": (8,)}
NETWORKS: dict[str, dict[str, Any]] = {
    "group": NETWORK,
    "batch": {**NETWORK, "norm": "batch"},
    "two_stage": {"name": "faster_rcnn", "backbone": "resnet10", "width": 8, "norm": "batch", "fpn_channels": 16, "strides": (8, 16)},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Colored cells, quickly learned; the images to judge on are the training's own."""
    return cells(tmp_path_factory.mktemp("data") / "cells", 24)


def cells(root: Path, num_images: int) -> Dataset:
    data = artifact_samples.dataset(root, num_images=num_images)
    train = data.facts.splits["train"]
    write_facts(root, data.facts.model_copy(update={"splits": {"train": train, "val": train}}))
    return data


def schedule(**options: Any) -> Any:
    return tiny.schedule(**{"epochs": 4, "batch_size": 8, "learning_rate": 2e-3, "warmup_steps": 4, "schedule": "constant", **options})


def trainer(dataset: Dataset, folder: Path, *, observed: bool, network: Mapping[str, Any] = NETWORK, **options: Any) -> Trainer:
    """A training of one network in a folder, distilled if `distilled` is among the options."""
    folder.mkdir(exist_ok=True)
    distilled, classes = options.pop("distilled", False), len(dataset.facts.contract.classes)
    detector = build_detector(tiny.detector(dict(network)), classes, 0)
    task = Task(detector)
    if distilled:
        teacher = build_detector(tiny.detector({**NETWORK, "width": 16}), classes, 5)
        losses = build_losses(tiny.distillation(losses=tiny.LOSSES), detector, teacher, 0)
        task = Distillation(detector, Teacher(teacher), losses, loss_factor(tiny.distillation(), 12))
    watching = Observer(detector, dataset, "val", EXPORT) if observed else None
    return Trainer(task, dataset, schedule(**options), seed=0, device="cpu", folder=folder, label="test", observer=watching)


def curve_of(training: Trainer) -> LearningCurve:
    found = training.curve([])
    assert found is not None
    return found


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class TestNothingElseChanges:
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("ema", [0.9, None])
    def test_weights_buffers_and_generators_are_the_same_bit_for_bit(
        self, dataset: Dataset, tmp_path: Path, network: str, ema: float | None
    ) -> None:
        states, drawn = [], []
        for observed in (False, True):
            training = trainer(dataset, tmp_path / f"{observed}", observed=observed, network=NETWORKS[network], ema=ema, epochs=2)
            torch.manual_seed(3)
            np.random.seed(3)  # noqa: NPY002 - the global generator is what is tested
            random.seed(3)
            states.append(training.run().state_dict())
            drawn.append([*torch.rand(3).tolist(), np.random.random(), random.random()])  # noqa: NPY002
            assert len(training._progress.seen) == int(observed)
        assert_same(*states)
        assert drawn[0] == drawn[1]

    def test_nor_does_a_distillation(self, dataset: Dataset, tmp_path: Path) -> None:
        states = [
            trainer(dataset, tmp_path / f"{observed}", observed=observed, distilled=True, epochs=2).run().state_dict()
            for observed in (False, True)
        ]
        assert_same(*states)

    def test_dropout_and_batch_normalization_go_on_training(self, dataset: Dataset, tmp_path: Path) -> None:
        training = trainer(dataset, tmp_path / "run", observed=True, network=NETWORKS["batch"], ema=None)
        modes: list[bool] = []
        take = training.step

        def step(batch: TrainingBatch) -> list[dict[str, float]]:
            modes.append(all(module.training for module in training._task.modules()))
            return take(batch)

        training.step = step  # type: ignore[method-assign]
        training.run()
        assert modes == [True] * 12


class TestWhatIsSeen:
    def test_the_points_are_those_of_the_weights_at_these_steps(
        self, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(observer, "images_judged", lambda _: 6)
        training = trainer(dataset, tmp_path / "run", observed=True, epochs=10)
        kept: dict[int, Any] = {}
        take = training.step

        def step(batch: TrainingBatch) -> list[dict[str, float]]:
            losses = take(batch)
            assert training._ema is not None
            kept[training._progress.step] = copy.deepcopy(training._ema.module)
            return losses

        training.step = step  # type: ignore[method-assign]
        trained = training.run()
        part = some(labeled_split(dataset, "val"), 6)
        expected = {number: torch_accuracy.judge_images(kept[number].eval(), dataset, part, EXPORT, "x") for number in (6, 12, 18, 24, 30)}
        end = torch_accuracy.judge_split(tmp_path, trained, dataset, "val", EXPORT)
        found = training.curve(end.detections)
        assert found is not None
        assert [point.step for point in found.points] == [*expected]
        assert [point.share for point in found.points] == pytest.approx([number / 30 for number in expected])
        for point, judged in zip(found.points, expected.values(), strict=True):
            assert point.map == pytest.approx(judged.accuracy.map)
        assert found.last_fifth is not None
        last, before = found.points[-1].map, found.points[-2].map
        assert last is not None
        assert before is not None
        assert found.last_fifth.gain == pytest.approx(last - before)
        assert (found.split, found.num_images) == ("val", 6)
        assert still_rising(found.last_fifth) is None  # of 6 images

    @pytest.mark.parametrize("ema", [0.9, None])
    def test_a_training_broken_off_has_the_same_curve(
        self, dataset: Dataset, tmp_path: Path, ema: float | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(observer, "images_judged", lambda _: 4)
        options: dict[str, Any] = {"observed": True, "epochs": 8, "ema": ema}
        whole = trainer(dataset, tmp_path / "whole", **options)
        whole.run()
        for stop in (6, 19, 24):  # after the first point, in the middle of the last fifth, when all is trained
            folder = tmp_path / f"broken-{stop}"
            broken = trainer(dataset, folder, **options)
            take = broken.step

            def step(batch: TrainingBatch, broken: Trainer = broken, stop: int = stop, take: Any = take) -> Any:
                if broken._progress.step == stop:
                    raise KeyboardInterrupt
                return take(batch)

            monkeypatch.setattr(broken, "step", step)
            if stop < 24:
                with pytest.raises(KeyboardInterrupt):
                    broken.run()
            else:
                broken.run()
            resumed = trainer(dataset, folder, **options)
            resumed.run()
            assert [one["step"] for one in resumed._progress.seen] == [5, 10, 14, 19]
            assert curve_of(resumed) == curve_of(whole)

    def test_a_state_saved_by_an_earlier_version_is_continued(self) -> None:
        progress = Progress()
        progress.load_state_dict({"epoch": 2, "step": 6, "rows": []})
        assert (progress.epoch, progress.seen) == (2, [])

    def test_an_invalid_answer_on_the_way_is_the_point_s_reason_and_stops_nothing(
        self, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(observer, "images_judged", lambda _: 6)
        training = trainer(dataset, tmp_path / "run", observed=True, epochs=10)
        judge, answers = torch_accuracy.judge_images, iter(range(9))

        def unsure(*given: Any) -> Judged:
            if next(answers) == 3:
                raise ArtifactError("test: mAP at 80%, 7.png: the engine's NMS did not converge")
            return judge(*given)

        monkeypatch.setattr(observer, "judge_images", unsure)
        training.run()
        found = curve_of(training)
        assert [point.why is None for point in found.points] == [True, True, True, False, True]
        assert found.points[3].map is None
        assert "7.png" in str(found.points[3].why)
        assert found.last_fifth is None

    def test_weights_that_are_not_finite_have_no_more_than_no_map(self, dataset: Dataset) -> None:
        detector = build_detector(tiny.detector(NETWORK), 3, 0)
        watching = Observer(detector, dataset, "val", EXPORT)
        for parameter in detector.parameters():
            parameter.data.fill_(float("nan"))
        assert not watching.seen(detector, torch.device("cpu"), 4, 5, "test")["map"]

    def test_one_image_and_images_without_objects(self, tmp_path: Path) -> None:
        one = cells(tmp_path / "one", 1)  # its only image is empty
        training = trainer(one, tmp_path / "run", observed=True, epochs=6)
        training.run()
        found = curve_of(training)
        assert [(point.share, point.map) for point in found.points] == [(pytest.approx(5 / 6), None), (1.0, None)]
        assert found.last_fifth is None
        two = cells(tmp_path / "two", 2)
        training = trainer(two, tmp_path / "again", observed=True, epochs=6)
        training.run()
        gave = curve_of(training).last_fifth
        assert gave is not None
        assert still_rising(gave) is None


def trained(dataset: Dataset, out: Path, epochs: int, **options: Any) -> Checkpoint:
    out.mkdir()
    config = StudentConfig(detector=tiny.detector(NETWORK), train=schedule(epochs=epochs, **options))
    return train_baseline(out, config, 0, "cpu", "val", dataset, EXPORT)


class TestCheckpoint:
    def test_stopped_early_it_is_still_rising_and_trained_to_the_end_it_is_not(
        self, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("deploy.comparison.learning_curve.MIN_IMAGES", 16)
        early = trained(dataset, tmp_path / "early", 5, ema=None).facts.curve
        late = trained(dataset, tmp_path / "late", 40, ema=None, schedule="cosine").facts.curve
        assert early is not None
        assert late is not None
        assert early.last_fifth is not None
        assert (early.num_images, early.last_fifth.num_images) == (24, 16)  # only these have objects
        assert still_rising(early.last_fifth) is True
        assert still_rising(late.last_fifth) is False
        assert len(late.points) == 5
        assert late.points[-1].map == pytest.approx(1.0, abs=0.05)

    def test_the_end_is_the_accuracy_that_is_reported(self, dataset: Dataset, tmp_path: Path) -> None:
        facts = trained(dataset, tmp_path / "run", 5).facts
        assert facts.curve is not None
        assert facts.curve.points[-1].map == pytest.approx(facts.accuracy.map)  # the part is the entire split
        assert not any("resume" in path.name for path in (tmp_path / "run").iterdir())

    def test_of_an_earlier_version_is_read(self, dataset: Dataset, tmp_path: Path) -> None:
        checkpoint = trained(dataset, tmp_path / "run", 1)
        file = checkpoint.root / "artifact.json"
        facts = json.loads(file.read_text(encoding="utf-8"))
        assert len(facts["curve"]["points"]) == 1  # of three steps
        del facts["curve"]
        file.write_text(json.dumps(facts), encoding="utf-8")
        assert checkpoint.facts.curve is None
        assert load_detector(checkpoint).name == "fcos"

    def test_loaded_weights_and_no_epochs_have_no_curve(self, dataset: Dataset, tmp_path: Path) -> None:
        first = trained(dataset, tmp_path / "run", 0)
        assert first.facts.curve is None
        (tmp_path / "loaded").mkdir()
        config = TeacherConfig(detector=tiny.detector(NETWORK), weights=str(first.root))
        assert train_teacher(tmp_path / "loaded", config, 0, "cpu", "val", dataset, EXPORT).facts.curve is None
