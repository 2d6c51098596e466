"""The training loop: resumed, distilled and undisturbed trainings compared bit for bit."""

import copy
import csv
import json
import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from detector_samples import tiny_options
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision import tv_tensors

from deploy import plugins
from deploy.errors import ArtifactError, ConfigError
from deploy.prediction import preprocess
from stages.artifacts import Dataset
from stages.config import DataConfig, LossConfig, TrainConfig
from stages.detectors import Detector, Target
from stages.prepare import prepare
from stages.training import saved_state
from stages.training.batches.augment import Sample, mosaic, transforms
from stages.training.batches.loader import TrainingBatch, TrainingImages
from stages.training.batches.streams import EpochBatches
from stages.training.checkpoint import build_detector
from stages.training.distillation import Distillation, build_losses, gradient_norms, loss_factor, shares
from stages.training.loop import Task, Trainer
from stages.training.optimizer import averaged, learning_rate
from stages.training.teacher import Teacher


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data") / "digits")


def trainer(
    dataset: Dataset,
    folder: Path,
    config: TrainConfig,
    losses: list[dict[str, Any]] | None,
    networks: tuple[dict[str, Any], dict[str, Any]] = (tiny.STUDENT, tiny.TEACHER),
) -> tuple[Trainer, Detector]:
    """A training of the tiny student with these losses (none: without a teacher), and the teacher."""
    folder.mkdir(exist_ok=True)
    student, teacher = (build_detector(tiny.detector(choice), 10, seed) for choice, seed in zip(networks, (0, 5), strict=True))
    if losses is None:
        task = Task(student)
    else:
        built = build_losses(tiny.distillation(losses=losses), student, teacher, 0)
        task = Distillation(student, Teacher(teacher), built, loss_factor(tiny.distillation(warmup_steps=2), 9), every=100)
    return Trainer(task, dataset, config, seed=0, device="cpu", folder=folder, label="test"), teacher


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "curves.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "images_per_s"} for row in csv.DictReader(file)]


class Interruption(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("losses", [None, tiny.LOSSES, tiny.AUTO, tiny.HEADS], ids=["baseline", "distilled", "auto", "heads"])
@pytest.mark.parametrize("step", [1, 4, 8])
def test_a_training_broken_off_at_any_step_ends_with_the_same_weights(
    dataset: Dataset, tmp_path: Path, losses: list[dict[str, Any]] | None, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.schedule(augment=[{"name": "color"}, {"name": "scale"}, {"name": "mosaic"}])
    assert_resumes(partial(trainer, dataset, config=config, losses=losses), tmp_path, step, monkeypatch)


def test_found_weights_resume_where_batches_are_processed_in_parts(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_resumes(partial(trainer, dataset, config=tiny.schedule(accumulate=3), losses=tiny.AUTO), tmp_path, 4, monkeypatch)


@pytest.mark.parametrize(
    ("name", "losses"),
    [("rt_detr_v2", [{"name": "shared_queries", "weight": "auto"}]), ("faster_rcnn", [{"name": "chen", "weight": "auto"}])],
)
def test_trainings_of_other_kinds_of_heads_resume_as_well(
    dataset: Dataset, tmp_path: Path, name: str, losses: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They draw random numbers in every step, and loader processes are started at different times."""
    network = {"name": name, **tiny_options(name)}
    made = partial(trainer, dataset, losses=losses, networks=(network, network))
    assert_resumes(partial(made, config=tiny.schedule(epochs=2, workers=1)), tmp_path, 4, monkeypatch)
    without, _ = made(tmp_path / "without", config=tiny.schedule(epochs=2, workers=0))
    without.run()
    assert rows(tmp_path / "without") == rows(tmp_path / "whole")


def assert_resumes(made: Callable[[Path], tuple[Trainer, Detector]], tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off before a step and started again, a training ends as it would have."""
    undisturbed = made(tmp_path / "whole")[0].run().state_dict()
    broken, _ = made(tmp_path / "broken")
    take = broken.step

    def stop_at_step(batch: TrainingBatch) -> list[dict[str, float]]:
        if broken._progress.step == step:
            raise Interruption
        return take(batch)

    monkeypatch.setattr(broken, "step", stop_at_step)
    with pytest.raises(Interruption):
        broken.run()
    torch.rand(17)  # the state of the global generator must not matter
    resumed = made(tmp_path / "broken")[0].run().state_dict()
    assert_same(undisturbed, resumed)
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")


def test_a_training_with_every_loss_that_the_pair_can_give_resumes_bit_for_bit(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses with draws or running means of their own, too; the state is of the first epoch, after three steps."""
    given = {*build_detector(tiny.detector(), 10).gives, "targets"}
    losses = [
        {"name": name, "weight": 1e-3} for name in plugins.names("stages.losses") if set(plugins.load("stages.losses", name).READS) <= given
    ]
    config = tiny.schedule(epochs=2)
    undisturbed = trainer(dataset, tmp_path / "whole", config, losses)[0]
    expected = undisturbed.run().state_dict()
    broken, _ = trainer(dataset, tmp_path / "broken", config, losses)
    take = broken.step

    def stop_at_step(batch: TrainingBatch) -> list[dict[str, float]]:
        if broken._progress.step == 4:
            raise Interruption
        return take(batch)

    monkeypatch.setattr(broken, "step", stop_at_step)
    with pytest.raises(Interruption):
        broken.run()
    resumed = trainer(dataset, tmp_path / "broken", config, losses)[0]
    assert_same(expected, resumed.run().state_dict())
    assert_same(undisturbed._task.state_dict(), resumed._task.state_dict())
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")


def test_weight_zero_is_no_distillation_bit_for_bit(dataset: Dataset, tmp_path: Path) -> None:
    config = tiny.schedule()
    baseline = trainer(dataset, tmp_path / "baseline", config, None)[0].run().state_dict()
    losses = [{"name": name, "weight": 0.0} for name in plugins.names("stages.losses")]
    assert_same(baseline, trainer(dataset, tmp_path / "zero", config, losses)[0].run().state_dict())
    distilled = trainer(dataset, tmp_path / "distilled", config, tiny.LOSSES)[0].run().state_dict()
    assert any(not torch.equal(baseline[name], distilled[name]) for name in baseline)


def test_the_teacher_is_bit_identical_after_training_and_saved_nowhere(dataset: Dataset, tmp_path: Path) -> None:
    training, teacher = trainer(dataset, tmp_path / "run", tiny.schedule(), tiny.LOSSES)
    before = copy.deepcopy(teacher.state_dict())
    student = training.run()
    assert_same(before, teacher.state_dict())
    assert not any("teacher" in name for name in training._task.state_dict())
    assert student.state_dict().keys() == build_detector(tiny.detector(), 10).state_dict().keys()


def test_every_term_is_logged_plain_weighted_and_by_its_share_of_the_gradient(dataset: Dataset, tmp_path: Path) -> None:
    trainer(dataset, tmp_path / "run", tiny.schedule(epochs=1), tiny.LOSSES)[0].run()
    row = {name: float(value) for name, value in rows(tmp_path / "run")[0].items()}
    terms = [f"attention/{term}/{stride}" for term in ("feature", "spatial", "channel") for stride in (8, 16)]
    terms += [f"non_local/relation/{stride}" for stride in (8, 16)]
    assert {"epoch", "loss", "learning_rate", "grad_norm", *terms} <= row.keys()
    for name in terms:  # of two levels at weight 0.5 each, in the mean of steps at the factors 0.5 and 1
        assert 0.5 / 2 * 0.5 * row[name] < row[f"weighted/{name}"] < 0.5 / 2 * row[name], name
    shares = {name: value for name, value in row.items() if name.startswith("share/")}
    losses = ("attention/feature", "attention/spatial", "attention/channel", "non_local/relation")
    assert set(shares) == {"share/task", *(f"share/{term}" for term in losses)}
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in shares.values())


def test_gradient_shares_are_those_of_the_norms() -> None:
    features = (torch.ones(2, 2, requires_grad=True), torch.ones(3, requires_grad=True))
    parts = {"one": features[0].sum() * 2, "other": features[1].sum() * 4 + features[0][0, 0] * 2}
    norms = gradient_norms(parts, features)  # sqrt(4 * 2^2) = 4 and sqrt(3 * 4^2 + 2^2) = sqrt(52)
    assert {name: norm.item() for name, norm in norms.items()} == pytest.approx({"one": 4, "other": 52**0.5})
    assert shares(norms)["one"].item() == pytest.approx(4 / (4 + 52**0.5))
    assert shares(norms)["other"].item() == pytest.approx(52**0.5 / (4 + 52**0.5))


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_shares_of_a_norm_that_is_not_finite_are_none_at_all(broken: float) -> None:
    found = shares({"task": torch.tensor(2.0), "a": torch.tensor(broken), "b": torch.tensor(1.0)})
    assert all(math.isnan(value) for value in found.values())


def test_norms_in_half_precision_are_scaled_also_where_the_pyramid_is_not_in_half() -> None:
    features = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight, norms = torch.rand(4, 4, 1, 1, generator=torch.Generator().manual_seed(1)), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=enabled):
            part = torch.nn.functional.conv2d(features, weight).float().mean() * 1e-6
            norms.append(gradient_norms({"a": part}, (features,))["a"].item())
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)


def test_a_term_that_does_not_reach_the_pyramid_has_no_share() -> None:
    features = (torch.ones(2, requires_grad=True),)
    parts = {"task": features[0].sum(), "constant": torch.tensor(3.0), "adapters": torch.ones((), requires_grad=True) * 2}
    found = shares(gradient_norms(parts, features))
    assert {name: share.item() for name, share in found.items()} == {"task": 1, "constant": 0, "adapters": 0}


def test_a_gradient_too_small_for_half_precision_has_its_norm() -> None:
    level = torch.ones(64, 64, dtype=torch.float16, requires_grad=True)
    part = (level.float() * 1e-8).sum()  # the least positive number of float16 is 6e-8
    assert gradient_norms({"mean": part}, (level,))["mean"].item() == pytest.approx(64 * 1e-8, rel=0.05)


def test_batch_normalization_of_a_single_image_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    choice = tiny.detector({"name": "ssdlite", "width_mult": 0.25, "norm": "batch"})
    config = tiny.schedule(batch_size=1)
    training = Trainer(Task(build_detector(choice, 10)), dataset, config, seed=0, device="cpu", folder=tmp_path, label="student")
    with pytest.raises(ConfigError, match="student: batch normalization needs two images or more per process and part; raise"):
        training.run()


def test_sampling_the_shares_changes_no_weight(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "often").mkdir()
    student, teacher = build_detector(tiny.detector(), 10, 0), build_detector(tiny.detector(tiny.TEACHER), 10, 5)
    config = tiny.distillation(warmup_steps=2)
    task = Distillation(student, Teacher(teacher), build_losses(config, student, teacher, 0), loss_factor(config, 9), every=1)
    often = Trainer(task, dataset, tiny.schedule(), seed=0, device="cpu", folder=tmp_path / "often", label="test").run()
    assert_same(trainer(dataset, tmp_path / "once", tiny.schedule(), tiny.LOSSES)[0].run().state_dict(), often.state_dict())


class Averaging(Task):
    """A loss that is the mean over images, whatever the part."""

    def forward(self, batch: TrainingBatch, extra: Any) -> tuple[Tensor, dict[str, Tensor]]:
        levels = self.detector(batch.images).pyramid
        loss = torch.stack([level.square().mean() for level in levels]).sum()
        return loss, {"power": loss}


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_a_batch_run_in_parts_trains_as_the_whole_does(dataset: Dataset, tmp_path: Path, parts: int) -> None:
    states, curves = [], []
    for count in (1, parts):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        task = Averaging(build_detector(tiny.detector(), 10))
        config = tiny.schedule(accumulate=count, optimizer="sgd")
        states.append(Trainer(task, dataset, config, seed=0, device="cpu", folder=folder, label="test").run().state_dict())
        curves.append(rows(folder))
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-4, atol=1e-6)
    for one, other in zip(*curves, strict=True):
        assert float(other["power"]) == pytest.approx(float(one["power"]), rel=1e-4)


def test_a_batch_is_split_with_its_targets() -> None:
    targets = tuple(Target(torch.full((1, 4), float(i)), torch.tensor([i])) for i in range(5))
    parts = TrainingBatch(torch.arange(5.0).reshape(5, 1, 1, 1), targets).split(2)
    assert [part.images.flatten().tolist() for part in parts] == [[0, 1, 2], [3, 4]]
    assert [[int(t.labels) for t in part.targets] for part in parts] == [[0, 1, 2], [3, 4]]
    assert [part.parts for part in parts] == [2, 2]


def test_the_first_term_that_is_not_finite_is_named_with_its_level(dataset: Dataset, tmp_path: Path) -> None:
    training, _ = trainer(dataset, tmp_path / "run", tiny.schedule(), tiny.LOSSES)
    task = training._task
    assert isinstance(task, Distillation)
    plain = task.prepare

    def broken(batch: TrainingBatch, step: int) -> Any:
        lesson = plain(batch, step)
        assert lesson is not None
        if step == 2:
            lesson.teacher.pyramid[1][0, 0, 0, 0] = float("nan")
        return lesson

    task.prepare = broken  # type: ignore[method-assign]
    with pytest.raises(ArtifactError, match=r"test: attention/feature/16 is nan at step 2 \(epoch 1\)"):
        training.run()


class Poisoned(Task):
    """A task with a term that is infinite from the fourth step on."""

    steps = 0

    def forward(self, batch: TrainingBatch, extra: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().forward(batch, extra)
        self.steps += 1
        bad = torch.tensor(float("inf") if self.steps > 3 else 0.0)
        return loss + bad, {**terms, "poison": bad}


def test_a_term_that_is_not_finite_stops_the_training_and_is_named(dataset: Dataset, tmp_path: Path) -> None:
    task = Poisoned(build_detector(tiny.detector(), 10))
    training = Trainer(task, dataset, tiny.schedule(), seed=0, device="cpu", folder=tmp_path, label="student")
    with pytest.raises(ArtifactError, match=r"student: poison is inf at step 3 \(epoch 2\)"):
        training.run()


def test_learning_rate_warms_up_and_follows_the_schedule() -> None:
    cosine = learning_rate(tiny.schedule(warmup_steps=10, schedule="cosine"), 100)
    assert cosine(0) == pytest.approx(0.1)
    assert cosine(50) == pytest.approx(0.5)
    assert cosine(100) == pytest.approx(0.0)
    steps = learning_rate(tiny.schedule(warmup_steps=0, schedule="multistep", milestones=(0.5, 0.9), gamma=0.1), 100)
    assert [steps(i) for i in (0, 49, 50, 89, 90)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_the_average_of_the_weights_leaves_indices_alone() -> None:
    network = nn.BatchNorm1d(2)
    network.register_buffer("index", torch.arange(100))
    follower = averaged(network, 0.9999)
    follower.update_parameters(network)
    nn.init.zeros_(network.weight)
    network.load_state_dict(network.state_dict() | {"running_mean": torch.ones(2)})
    for _ in range(2):
        follower.update_parameters(network)
    found = follower.module.state_dict()
    assert torch.equal(found["index"], torch.arange(100))
    assert found["weight"].tolist() == pytest.approx([0.9999**2] * 2, rel=1e-6)
    assert found["running_mean"].tolist() == pytest.approx([1 - 0.9999**2] * 2, rel=1e-3)


@pytest.mark.parametrize(("fade", "expected"), [("none", [1, 1, 1]), ("linear", [1, 0.5, 0]), ("cosine", [1, 0.5, 0])])
def test_the_weight_of_the_losses_rises_and_fades(fade: str, expected: list[float]) -> None:
    factor = loss_factor(tiny.distillation(fade=fade), 100)
    assert [factor(step) for step in (0, 50, 100)] == pytest.approx(expected)
    assert loss_factor(tiny.distillation(fade=fade, warmup_steps=10), 10**9)(4) == pytest.approx(0.5)
    assert loss_factor(tiny.distillation(fade="cosine"), 100)(25) == pytest.approx(0.5 * (1 + 2**-0.5))


def test_batches_of_two_processes_together_are_those_of_one() -> None:
    def batches(rank: int, processes: int) -> list[list[tuple[int, int]]]:
        sampler = EpochBatches(11, 4, seed=3, rank=rank, num_processes=processes)
        sampler.epoch = 2
        return list(sampler)

    for whole, first, second in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        assert sorted(whole) == sorted(first + second)
        assert len(first) == len(second) == 2
    assert len(batches(0, 1)) == 2
    assert {epoch for batch in batches(0, 1) for epoch, _ in batch} == {2}


def test_a_batch_that_cannot_be_dealt_out_evenly_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 images \(train.batch_size 4, 3 training images\) cannot be divided evenly among 2 processes"):
        EpochBatches(3, 4, seed=0, rank=0, num_processes=2)


def test_cuda_that_is_not_here_is_refused(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device: cuda, but torch finds no CUDA GPU on this machine"):
        Trainer(Task(build_detector(tiny.detector(), 10)), dataset, tiny.schedule(), seed=0, device="cuda", folder=tmp_path, label="test")


class TestState:
    """What a kill may leave of the state to resume from."""

    @pytest.fixture
    def broken(self, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder of a training stopped in its third epoch."""
        training, _ = trainer(dataset, tmp_path, tiny.schedule(), None)
        epoch = training._epoch
        monkeypatch.setattr(training, "_epoch", lambda steps: epoch(steps) if training._progress.epoch < 2 else self.stop())
        with pytest.raises(Interruption):
            training.run()
        return tmp_path

    def stop(self) -> None:
        raise Interruption

    def test_between_two_names_the_old_one_is_resumed_from(self, dataset: Dataset, broken: Path) -> None:
        (broken / saved_state.NAME).rename(broken / f"{saved_state.NAME}.old")
        training, _ = trainer(dataset, broken, tiny.schedule(), None)
        training._saved.load()
        assert training._progress.epoch == 2
        training._saved.save()
        assert [path.name for path in broken.iterdir() if path.name.startswith(saved_state.NAME)] == [saved_state.NAME]

    def test_half_a_state_is_refused_with_what_to_do(self, dataset: Dataset, broken: Path) -> None:
        for file in (broken / saved_state.NAME).iterdir():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        training, _ = trainer(dataset, broken, tiny.schedule(), None)
        with pytest.raises(ArtifactError, match=rf"resume: cannot be resumed from \(.*\); delete {broken} and run again"):
            training._saved.load()

    def test_nothing_is_left_of_it_in_the_end(self, broken: Path) -> None:
        shutil.copytree(broken / saved_state.NAME, broken / f"{saved_state.NAME}.old")
        saved_state.discard(broken)
        assert not [path for path in broken.iterdir() if path.name.startswith(saved_state.NAME)]


def test_a_view_draws_from_no_generator_that_training_draws_from(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seed: int) -> None:
        raise AssertionError(f"a GPU's generator was given seed {seed}")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    images = TrainingImages(dataset, tiny.schedule(augment=[{"name": "scale"}]), 0)
    before = torch.get_rng_state()
    images[(0, 0)]
    assert torch.equal(before, torch.get_rng_state())


def test_a_view_depends_on_seed_epoch_and_index_alone(dataset: Dataset) -> None:
    config = tiny.schedule(augment=[{"name": "color"}, {"name": "mosaic", "p": 1.0}])
    images, again = TrainingImages(dataset, config, 0), TrainingImages(dataset, config, 0)
    torch.manual_seed(99)
    first = images[(1, 3)]
    torch.manual_seed(1)
    again[(0, 2)]
    assert torch.equal(first[0], again[(1, 3)][0])
    assert torch.equal(first[1].boxes, again[(1, 3)][1].boxes)
    assert not torch.equal(first[0], images[(2, 3)][0])
    assert not torch.equal(first[0], TrainingImages(dataset, config, 1)[(1, 3)][0])


@pytest.mark.parametrize("name", ["flip", "scale", "crop", "color", "mosaic"])
def test_every_augmentation_keeps_boxes_inside_the_input(dataset: Dataset, name: str) -> None:
    images = TrainingImages(dataset, tiny.schedule(augment=[{"name": name}]), 0)
    for index in range(len(images)):
        image, target, _ = images[(0, index)]
        assert image.shape == (3, 64, 64)
        assert target.boxes.shape == (len(target.labels), 4)
        assert bool((target.boxes >= 0).all() and (target.boxes <= 64).all())
        assert bool((target.boxes[:, 2:] > target.boxes[:, :2]).all())


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (9, 5)], ids=str)
@pytest.mark.parametrize("boxes", [[], [[0.0, 0.0, 1.0, 1.0]]], ids=["empty", "one box"])
def test_every_augmentation_takes_images_of_any_size(size: tuple[int, int], boxes: list[list[float]]) -> None:
    augment = tiny.schedule(augment=[{"name": name} for name in ("flip", "scale", "crop", "color", "mosaic")]).augment
    steps = transforms(augment, 114)
    for seed in range(30):
        torch.manual_seed(seed)
        targets = tv_tensors.BoundingBoxes(torch.tensor(boxes).reshape(-1, 4), format="XYXY", canvas_size=size)
        image = tv_tensors.Image(torch.randint(0, 255, (3, *size), dtype=torch.uint8))
        sample: Sample = (image, {"boxes": targets, "labels": torch.zeros(len(boxes), dtype=torch.int64)})
        view, objects = steps(*mosaic(sample, repeat(sample).__next__, 114))
        assert min(view.shape) >= 1
        assert len(objects["boxes"]) == len(objects["labels"])


@pytest.mark.parametrize(
    ("augment", "kept"), [([], 1.0), ([{"name": "scale", "max": 1.5}], 1.5), ([{"name": "crop", "min_scale": 0.1}], 5.0)]
)
def test_large_images_are_shrunk_once_to_what_views_can_show(tmp_path: Path, augment: list[dict[str, Any]], kept: float) -> None:
    """The images are five times the network's input."""
    root = tmp_path / "coco"
    pixels = np.random.default_rng(0).integers(0, 255, (200, 320, 3), dtype=np.uint8)
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        Image.fromarray(pixels).save(root / "images" / split / "1.png")
        (root / "annotations").mkdir(exist_ok=True)
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [100, 50, 60, 40], "iscrowd": 0, "area": 2400}
        row = {"id": 1, "file_name": "1.png", "width": 320, "height": 200}
        coco = {"images": [row], "annotations": [annotation], "categories": [{"id": 1, "name": "box"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    config = DataConfig.model_validate({"dataset": "coco", "root": str(root), "preprocessing": {"height": 64, "width": 64}})
    (tmp_path / "out").mkdir()
    images = TrainingImages(prepare(tmp_path / "out", config), tiny.schedule(augment=augment), 0)
    image, objects = images._read(0)
    assert image.shape == (3, round(40 * kept), round(64 * kept))
    assert objects["boxes"].tolist() == [pytest.approx([20 * kept, 10 * kept, 32 * kept, 18 * kept])]
    (root / "images" / "train" / "1.png").unlink()
    view, target, _ = images[(0, 0)]
    if not augment:
        assert np.array_equal(view.numpy(), preprocess.apply(pixels, config.preprocessing)[0])
        assert target.boxes.tolist() == [pytest.approx([20, 10 + 12, 32, 18 + 12])]


def test_flip_mirrors_image_and_boxes(dataset: Dataset) -> None:
    plain, flipped = (TrainingImages(dataset, tiny.schedule(augment=a), 0)[(0, 0)] for a in ([], [{"name": "flip", "p": 1.0}]))
    assert torch.equal(flipped[0], plain[0].flip(-1))
    assert torch.equal(flipped[1].boxes[:, [0, 2]], 64 - plain[1].boxes[:, [2, 0]])


class TestTeacherOutputs:
    """What the student's losses receive of the teacher."""

    def test_are_those_of_eval_mode_on_the_same_view(self, dataset: Dataset) -> None:
        student, teacher = build_detector(tiny.detector(), 10), build_detector(tiny.detector({**tiny.TEACHER, "norm": "batch"}), 10)
        losses = {"attention": (build_losses(tiny.distillation(), student, teacher, 0)["attention"][0], 1.0)}
        task = Distillation(student, Teacher(teacher), losses, lambda step: 0.25 * (step + 1)).train()
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        lesson = task.prepare(TrainingBatch(images, ()), 0)
        assert lesson is not None
        assert lesson.factor == pytest.approx(0.25)
        with torch.no_grad():
            expected = teacher.eval()(images)
        for level, same in zip(lesson.teacher.pyramid, expected.pyramid, strict=True):
            torch.testing.assert_close(level, same)
            assert not level.requires_grad


def test_a_loss_given_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="attention is listed 2 times"):
        tiny.distillation(losses=[LossConfig.model_validate({"name": "attention"})] * 2)
