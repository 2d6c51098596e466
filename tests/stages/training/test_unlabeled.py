"""Images without labels in a training: the same images and targets however it runs, and none of them at ratio 0."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import detector_samples
import numpy as np
import pytest
import tiny
import torch
import unlabeled_samples
from PIL import Image
from torch import Tensor

from deploy import plugins
from deploy.errors import ConfigError
from deploy.prediction.masks import encode
from stages.artifacts import Dataset, ImagePool, PseudoLabels
from stages.config import DistillConfig, ExportConfig, PseudoConfig, SelfTrainingConfig, TeacherConfig, TrainConfig, UnlabelledConfig
from stages.detectors import Graph, GraphOutput, Target
from stages.facts import write_facts
from stages.train import train_teacher
from stages.training.batches.augment import mask_boxes
from stages.training.batches.loader import TrainingBatch, collate
from stages.training.checkpoint import build_detector
from stages.training.loop import Task, Trainer
from stages.training.unlabeled.lesson import PseudoLabeler
from stages.training.unlabeled.live import LiveLabels, drawn_masks
from stages.training.unlabeled.plan import Judging, refuse_unlearnable, some_of, student_task, teacher_task
from stages.training.unlabeled.targets import Thresholds, divided, painted
from stages.training.unlabeled.views import UnlabeledImages
from stages.unlabeled_facts import PseudoFacts

CLASSES = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data"), train_images=8)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> ImagePool:
    """Five pictures that are not in the data."""
    folder = tmp_path_factory.mktemp("pool")
    for number in range(5):
        seed = torch.Generator().manual_seed(number)
        pixels = torch.randint(0, 256, (60, 80, 3), generator=seed, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return unlabeled_samples.pool(tmp_path_factory.mktemp("collected"), data, folder)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory, data: Dataset, pool: ImagePool) -> PseudoLabels:
    return unlabeled_samples.labels(tmp_path_factory.mktemp("labels"), data, pool.images())


def student(data: Dataset, labels: PseudoLabels | None, config: DistillConfig, schedule: TrainConfig) -> Task:
    small, teacher = (build_detector(tiny.detector(options), CLASSES, 1) for options in (tiny.STUDENT, tiny.TEACHER))
    return student_task(small, teacher, config, schedule, 1, Judging(data, "val", ExportConfig()), labels)


def trained(task: Task, data: Dataset, folder: Path, schedule: TrainConfig) -> Mapping[str, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(task, data, schedule, seed=1, device="cpu", folder=folder, label="test")
    return trainer.run().state_dict()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def columns(folder: Path) -> set[str]:
    return set((folder / "curves.csv").read_text(encoding="utf-8").splitlines()[0].split(","))


def killed_at(task: Task, epoch: int, data: Dataset, folder: Path, schedule: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this folder until an epoch begins."""
    undisturbed = Trainer._epoch

    def killed(self: Trainer, steps: Any) -> None:
        if self._progress.epoch == epoch:
            raise KeyboardInterrupt
        undisturbed(self, steps)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(task, data, folder, schedule)


@pytest.mark.parametrize("count", [1, 3, 6, 8, 9, 16])
def test_every_unlabeled_image_counts_alike_in_a_batch_that_is_run_in_parts(data: Dataset, labels: PseudoLabels, count: int) -> None:
    def batch(number: int) -> TrainingBatch:
        targets = tuple(Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)) for _ in range(number))
        return TrainingBatch(torch.arange(float(number)).reshape(number, 1, 1, 1), targets, clean=torch.arange(float(number)))

    parts = replace(batch(8), others={"unlabelled": batch(count)}).split(4)
    assert [len(part.images) for part in parts] == [2, 2, 2, 2]
    seen = [(part.others["unlabelled"], len(part.targets) / 8) for part in parts if part.others]
    assert [int(one) for other, _ in seen for one in other.images.flatten()] == list(range(count))
    assert all(torch.equal(other.images.flatten(), other.clean) for other, _ in seen if other.clean is not None)
    # a mean over a part, times the part's weight and the labeled images' share, is each image's share of the mean over all
    assert [share * other.weight / len(other.images) for other, share in seen] == [pytest.approx(1 / count)] * len(seen)
    assert count % 8 or {other.weight for other, _ in seen} == {1.0}


def test_the_weight_of_a_part_multiplies_all_terms_on_unlabeled_images(data: Dataset, labels: PseudoLabels) -> None:
    def terms(weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        task = student(data, labels, tiny.distillation(unlabelled={"pseudo": {"threshold": 0.5, "warmup": 0.0}}), tiny.schedule())
        views = task.streams["unlabelled"].views
        other = collate([views[0, 0], views[0, 1]])
        assert isinstance(other, TrainingBatch)
        given = TrainingBatch(other.images, (tiny.target(), tiny.target()), others={"unlabelled": replace(other, weight=weight)})
        found: tuple[Tensor, dict[str, Tensor]] = task(given, task.prepare(given, 100))
        return found

    (whole, one), (halved, other) = terms(1.0), terms(0.5)
    weighted = {name for name in one if "unlabelled" in name}
    assert {name.split("/")[1] for name in weighted} >= {"attention", "non_local", "objects", "unlabelled"}
    assert all(torch.equal(other[name], one[name] * (0.5 if name in weighted else 1)) for name in one)
    assert halved < whole


def test_after_an_invalid_answer_thresholds_are_chosen_a_little_later(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveLabels(data, "val", ExportConfig(), PseudoConfig())
    tried: list[float] = []
    monkeypatch.setattr(live, "_choose", lambda: tried.append(round(live._chosen_at, 3)))
    assert [live.thresholds(step / 1000) for step in range(31)] == [None] * 31
    assert tried == [-1, 0, 0.01, 0.02]
    known = {name: unlabeled_samples.ALL.model_dump() for name in data.facts.contract.classes}
    live.load_state_dict({"chosen": known, "at": 0.03})
    live.thresholds(0.129)
    assert len(tried) == 4
    live.thresholds(0.13)
    assert len(tried) == 5


def test_a_box_without_a_pixel_of_width_or_height_is_no_target(data: Dataset) -> None:
    live = LiveLabels(data, "val", ExportConfig(), PseudoConfig(threshold=0.5))
    live.follow(build_detector(tiny.detector(), CLASSES, 1))
    boxes = torch.tensor([[4.0, 4.0, 9.0, 5.0], [64.0, 4.0, 64.0, 9.0], [4.0, 4.0, 4.5, 9.0], [0.0, 0.0, 9.0, 0.5], [1.0, 2.0, 30.0, 40.0]])
    labels, scores = torch.arange(5), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.0])

    class Clipped(Graph):
        def forward(self, images: Tensor) -> GraphOutput:
            return GraphOutput(boxes[None], scores[None], labels[None], torch.tensor([True]), ())

    live._graph = Clipped()
    (found,) = live.find(torch.zeros(1, 3, 64, 64))
    assert torch.equal(found.boxes, boxes[:1])
    assert torch.equal(found.labels, labels[:1])
    assert found.scores is not None
    assert torch.equal(found.scores, scores[:1])


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Grows whenever live labels choose thresholds, which they do once in a training."""
    calls: list[float] = []
    choose = LiveLabels._choose

    def counted(self: LiveLabels) -> None:
        calls.append(self._chosen_at)
        choose(self)

    monkeypatch.setattr("stages.training.unlabeled.live.REFRESH", 2.0)
    monkeypatch.setattr(LiveLabels, "_choose", counted)
    return calls


def test_at_ratio_0_the_weights_are_those_of_the_training_without_the_sections_bit_for_bit(
    data: Dataset, pool: ImagePool, labels: PseudoLabels, tmp_path: Path
) -> None:
    schedule = tiny.schedule(epochs=1)
    config = unlabeled_samples.config(ratio=0)
    assert config.from_unlabelled is None
    plain = trained(student(data, None, config.labeled, schedule), data, tmp_path / "plain", schedule)
    nothing = trained(student(data, labels, config, schedule), data, tmp_path / "nothing", schedule)
    assert same(plain, nothing)
    large = {"detector": tiny.STUDENT, "train": schedule.model_dump()}
    given = 1, "cpu", "val", data, ExportConfig()
    weights = []
    for name, more in (("teacher", {}), ("asked", {"unlabelled": {"ratio": 0}})):
        (tmp_path / name).mkdir()
        train_teacher(tmp_path / name, TeacherConfig.model_validate({**large, **more}), *given, pool if more else None)
        weights.append((tmp_path / name / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_pseudo_labels_and_features_change_the_student_and_are_in_its_curves(data: Dataset, labels: PseudoLabels, tmp_path: Path) -> None:
    schedule = tiny.schedule(epochs=1)
    config = unlabeled_samples.config()
    plain = trained(student(data, None, config.labeled, schedule), data, tmp_path / "plain", schedule)
    both = trained(student(data, labels, config, schedule), data, tmp_path / "both", schedule)
    assert not same(plain, both)
    found = columns(tmp_path / "both")
    assert {"unlabelled/classification", "unlabelled/bbox_regression", "unlabelled/objects", "weighted/unlabelled"} <= found
    assert any(name.startswith("unlabelled/attention/") for name in found)
    assert not any("unlabelled" in name for name in columns(tmp_path / "plain"))


def test_a_training_that_was_killed_and_resumed_equals_an_undisturbed_one_bit_for_bit(
    data: Dataset, labels: PseudoLabels, tmp_path: Path, chosen: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = tiny.schedule(epochs=2, augment=[{"name": "flip"}, {"name": "scale"}])
    config = unlabeled_samples.config(refine=0.25)
    whole = trained(student(data, labels, config, schedule), data, tmp_path / "whole", schedule)
    assert len(chosen) == 1
    killed_at(student(data, labels, config, schedule), 1, data, tmp_path / "killed", schedule, monkeypatch)
    assert len(chosen) == 2
    resumed = trained(student(data, labels, config, schedule), data, tmp_path / "killed", schedule)
    assert len(chosen) == 2, "thresholds are kept"
    assert same(whole, resumed)


def test_a_teacher_learns_from_its_averaged_weights_and_resumes_bit_for_bit(
    data: Dataset, pool: ImagePool, tmp_path: Path, chosen: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = tiny.schedule(epochs=2)
    config = SelfTrainingConfig.model_validate({"pseudo": {"start": 0.25, "threshold": 0.01, "warmup": 0}})

    def task() -> Task:
        detector = build_detector(tiny.detector(), CLASSES, 1)
        return teacher_task(detector, config, schedule, 1, Judging(data, "val", ExportConfig(score_threshold=0.001)), pool)

    whole = trained(task(), data, tmp_path / "whole", schedule)
    killed_at(task(), 1, data, tmp_path / "killed", schedule, monkeypatch)
    resumed = trained(task(), data, tmp_path / "killed", schedule)
    assert len(chosen) == 2, "the one that was resumed kept its thresholds"
    alone = trained(Task(build_detector(tiny.detector(), CLASSES, 1)), data, tmp_path / "alone", schedule)
    assert same(whole, resumed)
    assert not same(whole, alone)
    assert "unlabelled/classification" in columns(tmp_path / "whole")


def test_a_teacher_may_learn_what_another_one_found(data: Dataset, pool: ImagePool, labels: PseudoLabels, tmp_path: Path) -> None:
    schedule = tiny.schedule(epochs=1)
    config = SelfTrainingConfig.model_validate({"labels": "first", "pseudo": {"warmup": 0}})
    detector = build_detector(tiny.detector(), CLASSES, 1)
    task = teacher_task(detector, config, schedule, 1, Judging(data, "val", ExportConfig()), pool, labels)
    assert task.memory == (), "nobody labels on the way"
    trained(task, data, tmp_path, schedule)
    assert "unlabelled/objects" in columns(tmp_path)
    head, row = (line.split(",") for line in (tmp_path / "curves.csv").read_text(encoding="utf-8").splitlines())
    assert float(row[head.index("unlabelled/objects")]) == pytest.approx(1), "one object per image, from the first step on"


def test_a_student_may_learn_from_unlabeled_images_only(data: Dataset, labels: PseudoLabels, tmp_path: Path) -> None:
    schedule = tiny.schedule(epochs=1)
    trained(student(data, labels, unlabeled_samples.config(only=True), schedule), data, tmp_path, schedule)
    found = columns(tmp_path)
    assert "unlabelled/classification" in found
    assert "classification" not in found


@pytest.mark.parametrize("options", [{"features": False}, {"losses": [{"name": "attention"}, {"name": "fine_grained"}]}])
def test_a_step_on_unlabeled_images_only_reaches_all_that_is_trained(data: Dataset, labels: PseudoLabels, options: dict[str, Any]) -> None:
    """The condition on which several processes exchange gradients."""
    task = student(data, labels, unlabeled_samples.config(only=True, **options), tiny.schedule()).train()
    views = task.streams["unlabelled"].views
    other = collate([views[0, 0], views[0, 1]])
    assert isinstance(other, TrainingBatch)
    batch = TrainingBatch(other.images, (), others={"unlabelled": other})
    task(batch, task.prepare(batch, 0))[0].backward()
    assert [name for name, weight in task.named_parameters() if weight.requires_grad and weight.grad is None] == []
    assert any(weight.requires_grad for name, weight in task.named_parameters() if name.startswith("losses.")) != ("features" in options)


def test_views_depend_on_seed_turn_and_index_only_and_share_their_geometry(data: Dataset, labels: PseudoLabels) -> None:
    schedule = tiny.schedule(augment=[{"name": "flip"}, {"name": "scale"}, {"name": "color"}])
    found = labels.coco()
    strong = unlabeled_samples.config().unlabelled
    assert strong is not None
    one, other = (UnlabeledImages(found["images"], data.facts.contract, schedule, strong.strong, 3, found["annotations"]) for _ in range(2))
    first, again, next_turn = one[0, 2], other[0, 2], one[1, 2]
    assert torch.equal(first.image, again.image)
    assert first.clean is not None
    assert again.clean is not None
    assert torch.equal(first.clean, again.clean)
    assert not torch.equal(first.image, first.clean)
    assert torch.equal(first.image[:, :8], first.clean[:, :8]), "80 x 60 px letterboxed to 64 x 64: padding keeps its color"
    assert torch.equal(first.image[:, 56:], first.clean[:, 56:])
    assert not torch.equal(first.image, next_turn.image)
    assert first.target.scores is not None
    assert first.target.scores.tolist() == pytest.approx([0.9])
    plain = UnlabeledImages(found["images"], data.facts.contract, tiny.schedule(), (), 3, found["annotations"])[0, 2]
    assert plain.clean is not None
    assert torch.equal(plain.image, plain.clean)
    assert plain.target.boxes.tolist() == [pytest.approx([12.8, 20.8, 35.2, 44.8])]  # 80 x 60 px letterboxed to 64 x 64


def test_fewer_images_are_part_of_more_and_the_same_ones_every_time() -> None:
    rows = [{"id": number} for number in range(20)]
    few, more = some_of(rows, 5), some_of(rows, 12)
    assert len(few) == 5
    assert [row for row in more if row in few] == few
    assert some_of(rows, 5) == few
    assert some_of(rows, 99) == some_of(rows, None) == rows


def masked(data: Dataset, pool: ImagePool) -> PseudoLabels:
    """Per image one object with a mask in the upper half of its box, and one whose mask is empty."""
    rows, contract = pool.images(), data.facts.contract
    found: list[dict[str, Any]] = []
    for row in rows:
        size = row["height"], row["width"]
        for inside in (np.ones((15, 28), np.bool_), np.zeros((1, 1), np.bool_)):
            code = encode(inside, size, left=16, top=16)
            one = {"image_id": row["id"], "category_id": contract.category_ids[0], "bbox": [16.0, 16.0, 28.0, 30.0], "score": 0.9}
            found.append({**one, "id": len(found) + 1, "segmentation": code})
    labels = pool.root.with_name("masked")
    labels.mkdir(exist_ok=True)
    (labels / PseudoLabels.IMAGES).write_text(json.dumps({"images": rows, "annotations": found, "categories": []}))
    facts = PseudoFacts(split="val", num_images=len(rows), empty=0, classes=dict.fromkeys(contract.classes, unlabeled_samples.ALL))
    write_facts(labels, facts)
    return PseudoLabels(labels)


def test_masks_of_detections_move_with_the_view(data: Dataset, pool: ImagePool) -> None:
    found = masked(data, pool).coco()
    images = UnlabeledImages(found["images"], data.facts.contract, tiny.schedule(), (), 3, found["annotations"], masks=True)
    target = images[0, 2].target
    assert target.masks is not None
    assert len(target.masks) == len(target.boxes) == 1, "nothing is left of the empty one"
    around = mask_boxes(target.masks)[0].tolist()
    assert around == pytest.approx([13, 21, 35, 33], abs=1)  # 80 x 60 px letterboxed to 64 x 64
    turned = UnlabeledImages(
        found["images"], data.facts.contract, tiny.schedule(augment=[{"name": "flip", "p": 1.0}]), (), 3, found["annotations"], masks=True
    )
    mirrored = turned[0, 2].target.masks
    assert mirrored is not None
    assert torch.equal(mirrored.flip(-1), target.masks)


def test_a_student_with_masks_learns_them_from_detections(data: Dataset, pool: ImagePool, tmp_path: Path) -> None:
    detector = build_detector(tiny.detector({"name": "mask_rcnn", **detector_samples.TINY["mask_rcnn"]}), CLASSES, 1)
    schedule = tiny.schedule(epochs=1, batch_size=2)
    teacher = build_detector(tiny.detector({"name": "mask_rcnn", **detector_samples.TINY["mask_rcnn"]}), CLASSES, 2)
    config = unlabeled_samples.config(losses=[{"name": "attention_transfer", "weight": 0.5}])
    task = student_task(detector, teacher, config, schedule, 1, Judging(data, "val", ExportConfig()), masked(data, pool))
    trained(task, data, tmp_path, schedule)
    assert "unlabelled/loss_mask" in columns(tmp_path)
    with pytest.raises(ConfigError, match=r"the student, mask_rcnn, learns masks, and the teacher, fcos, finds none"):
        refuse_unlearnable(detector, UnlabelledConfig(), {}, build_detector(tiny.detector(), CLASSES, 1))


def test_masks_of_the_averaged_weights_are_drawn_into_their_boxes() -> None:
    inside = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    boxes = torch.tensor([[4.0, 8.0, 12.0, 16.0]])
    (drawn,) = drawn_masks(inside, boxes, "box", (24, 32))
    assert drawn.shape == (24, 32)
    assert drawn[10, 5]
    assert not drawn[10, 11]
    assert not drawn[:, 13:].any()
    (whole,) = drawn_masks(inside, boxes, "image", (24, 32))
    assert whole[:, :16].all()
    assert not whole[:, 17:].any()


def doubtful() -> Target:
    boxes = torch.tensor([[0.0, 0, 8, 8], [8, 8, 16, 16], [16, 0, 24, 8], [0, 16, 8, 24]])
    return divided(
        Target(boxes, torch.tensor([0, 0, 1, 1]), scores=torch.tensor([0.9, 0.6, 0.4, 0.1])),
        Thresholds(torch.tensor([0.5, 0.5]), torch.tensor([0.2, 0.2]), torch.tensor([0.8, 0.8])),
        ignore=True,
    )


def test_detections_are_divided_into_objects_exact_boxes_doubt_and_background() -> None:
    found = doubtful()
    assert found.doubt is not None
    assert found.boxes[:, 0].tolist() == [0, 8]
    assert found.doubt.exact.tolist() == [True, False]
    assert found.doubt.unsure.tolist() == [[16, 0, 24, 8]]


def test_doubt_is_painted_over_where_no_object_is() -> None:
    images = torch.arange(3 * 32 * 32.0).reshape(1, 3, 32, 32)
    (changed,) = painted(images, [doubtful()])
    differs = (changed != images[0]).any(dim=0)
    assert differs[0:8, 16:24].all()
    assert not differs[:, :16].any()
    assert not differs[8:, :].any()


def test_a_dense_detector_learns_no_class_where_there_is_doubt_and_no_inexact_box() -> None:
    detector = build_detector(tiny.detector(), CLASSES, 1).train()
    images = torch.rand(1, 3, 64, 64)
    size = torch.tensor([[0.0, 0, 64, 64]])
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), scores=torch.zeros(0))
    unsure = divided(
        Target(size, torch.tensor([0]), scores=torch.tensor([0.3])),
        Thresholds(*(torch.full((10,), x) for x in (0.5, 0.2, 0.8))),
        ignore=True,
    )
    plain, quiet = (detector(images, [target]).losses for target in (nothing, unsure))
    assert 0 <= quiet["classification"] < plain["classification"] / 100
    inexact = Target(torch.tensor([[16.0, 16, 44, 46]]), torch.tensor([0]), scores=torch.tensor([0.6]))
    limits = Thresholds(*(torch.full((10,), x) for x in (0.5, 0.2, 0.8)))
    learned = detector(images, [divided(inexact, limits, ignore=True)]).losses
    certain = detector(images, [Target(inexact.boxes, inexact.labels)]).losses
    assert learned["bbox_regression"] == 0
    assert certain["bbox_regression"] > 0
    assert torch.equal(learned["classification"], certain["classification"])


def test_a_detector_that_does_not_heed_doubt_sees_images_without_it() -> None:
    rule = unlabeled_samples.config().unlabelled
    assert rule is not None
    labeler = PseudoLabeler(rule.pseudo, 10, Thresholds(*(torch.full((10,), x) for x in (0.5, 0.2, 0.8))))
    batch = TrainingBatch(
        torch.rand(1, 3, 64, 64), (Target(torch.tensor([[0.0, 0, 32, 32]]), torch.tensor([0]), scores=torch.tensor([0.3])),)
    )
    dense = build_detector(tiny.detector(), CLASSES, 1)
    other = build_detector(tiny.detector({"name": "ssdlite"}), CLASSES, 1)
    heeding, painted_over = labeler.lesson(batch, 5, dense, None), labeler.lesson(batch, 5, other, None)
    assert heeding.targets is not None
    assert heeding.targets[0].doubt is not None
    assert torch.equal(heeding.images, batch.images)
    assert painted_over.targets is not None
    assert painted_over.targets[0].doubt is None
    assert not torch.equal(painted_over.images, batch.images)


def test_losses_that_read_targets_are_refused_if_nothing_else_is_learned(data: Dataset, labels: PseudoLabels) -> None:
    config = DistillConfig.model_validate({"losses": [{"name": "decoupled"}], "unlabelled": {"pseudo": None}})
    with pytest.raises(ConfigError, match="decoupled: none can compare networks without targets"):
        student(data, labels, config, tiny.schedule())


@pytest.mark.parametrize("name", ["gfl", "yolox"])
def test_heads_that_learn_how_good_a_box_is_learn_scores(name: str) -> None:
    module = plugins.load("stages.detectors", name)
    detector = build_detector(tiny.detector({"name": name, **module.TINY}), CLASSES, 1).train()
    images = torch.rand(1, 3, 64, 64)
    boxes, labels = torch.tensor([[16.0, 16, 44, 46]]), torch.tensor([3])
    limits = Thresholds(*(torch.full((10,), x) for x in (0.2, 0.1, 0.2)))
    targets = [divided(Target(boxes, labels, scores=torch.tensor([score])), limits, ignore=True) for score in (1.0, 0.4)]
    certain, sure, unsure = (detector(images, [one]).losses for one in (Target(boxes, labels), *targets))
    assert torch.equal(sure["classification"], certain["classification"])
    assert not torch.equal(unsure["classification"], certain["classification"])
    assert torch.equal(unsure["bbox_regression"], certain["bbox_regression"])
