"""Weights that are found: each term's share of the gradient is the stated one, and nothing else changes."""

import copy
import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from pydantic import ValidationError
from torch import Tensor

from deploy.errors import ArtifactError
from pipeline.arena.variants import ablated
from pipeline.config import PipelineConfig
from stages.artifacts import Dataset
from stages.config import DistillConfig
from stages.time_steps import step_options
from stages.training.balance import Balance
from stages.training.batches.loader import TrainingBatch
from stages.training.checkpoint import build_detector
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.loop import Task, Trainer
from stages.training.teacher import Teacher


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data") / "digits")


def distillation(losses: list[dict[str, Any]] = tiny.AUTO, every: int = 1, **options: Any) -> Distillation:
    student, teacher = build_detector(tiny.detector(), 10, 0), build_detector(tiny.detector(tiny.TEACHER), 10, 5)
    config = tiny.distillation(losses=losses, **options)
    built = build_losses(config, student, teacher, 0)
    return Distillation(student, Teacher(teacher), built, loss_factor(config, 9), every, config.share)


def trained(dataset: Dataset, folder: Path, task: Task, **options: Any) -> dict[str, Tensor]:
    folder.mkdir()
    schedule = tiny.schedule(**options)
    return dict(Trainer(task, dataset, schedule, seed=0, device="cpu", folder=folder, label="test").run().state_dict())


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "curves.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def shares(found: Balance, norms: Mapping[str, float]) -> dict[str, float]:
    each = {part: found.factor(part) * norm for part, norm in norms.items()}
    return {part: value / sum(each.values()) for part, value in each.items()}


class TestFactors:
    def test_each_loss_gets_an_equal_part_of_the_share_and_each_of_its_terms_of_that(self) -> None:
        found = Balance({"one": "auto", "other": "auto", "given": 2.0}, 0.6)
        norms = {"task": 3.0, "one/a": 40.0, "one/b": 0.01, "other/c": 7.0, "given/d": 0.5}
        found.see(norms)
        expected = {"task": 0.4 * 3 / 4, "one/a": 0.15, "one/b": 0.15, "other/c": 0.3, "given/d": 0.4 * 1 / 4}
        assert shares(found, norms) == pytest.approx(expected)
        assert found.factor("given/d") == 2.0

    def test_they_move_slowly(self) -> None:
        found = Balance({"one": "auto"}, 0.5)
        for _ in range(20):
            found.see({"task": 1.0, "one/a": 1.0})
        found.see({"task": 1.0, "one/a": 9.0})
        assert found.factor("one/a") == pytest.approx(9**-0.2)

    def test_a_term_that_begins_with_next_to_no_gradient_is_not_overrated_once_it_has_one(self) -> None:
        found = Balance({"one": "auto"}, 0.5)
        for norm in (1e-6, 1e-5, 1e-3, 1.0):
            found.see({"task": 1.0, "one/a": norm})
        assert found.factor("one/a") == pytest.approx(1.0)
        found.see({"task": 100.0, "one/a": 1e-4})
        assert found.factor("one/a") == pytest.approx(100 ** (1 / 5) * 100)  # the task's norm and a lower one move it slowly

    def test_the_first_measurements_count_alike(self) -> None:
        found = Balance({"one": "auto"}, 0.5)
        for norm in (1.0, 2.0, 8.0, 16.0):
            found.see({"task": 1.0, "one/a": norm})
        assert found.factor("one/a") == pytest.approx(1 / 4)  # over their geometric mean

    @pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
    def test_a_measurement_without_a_norm_changes_nothing(self, norm: float) -> None:
        found = Balance({"one": "auto"}, 0.5)
        found.see({"task": 2.0, "one/a": 8.0, "one/b": norm})
        assert [found.factor("one/a"), found.factor("one/b")] == pytest.approx([0.25, 0.0])
        found.see({"task": 2.0, "one/a": norm, "one/b": 1.0})
        assert [found.factor("one/a"), found.factor("one/b")] == pytest.approx([0.125, 1.0])

    def test_they_are_measured_often_at_first_and_never_without_auto(self) -> None:
        assert [step for step in range(201) if Balance({"a": "auto"}, 0.5).due(step)] == [0, 1, 2, 4, 8, 16, 32, 50, 100, 150, 200]
        assert not any(Balance({"a": 1.0}, 0.5).due(step) for step in range(201))

    def test_the_state_is_plain_and_complete(self) -> None:
        one, other = (Balance({"one": "auto"}, 0.5) for _ in range(2))
        one.see({"task": 2.0, "one/a": 3.0})
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        for found in (one, other):
            found.see({"task": 5.0, "one/a": 7.0})
        assert one.factor("one/a") == other.factor("one/a")


def test_a_trainings_shares_are_the_stated_ones(dataset: Dataset, tmp_path: Path) -> None:
    """Each step is measured, and the norms of few steps differ little."""
    trained(dataset, tmp_path / "run", distillation(share=0.4), epochs=2)
    for row in rows(tmp_path / "run"):
        assert row["share/task"] == pytest.approx(0.6, abs=0.06)
        assert row["share/non_local/relation"] == pytest.approx(0.2, abs=0.06)
        for term in ("feature", "spatial", "channel"):
            assert row[f"share/attention/{term}"] == pytest.approx(0.2 / 3, abs=0.03)
            assert row[f"weight/attention/{term}"] > 0
        assert "weight/task" not in row


def test_the_factor_is_the_weight_and_carries_no_gradient() -> None:
    """With the factors that were found as weights of terms, the same loss and gradient."""
    task = distillation()
    batch = TrainingBatch(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)), (tiny.target(), tiny.target()))
    loss, terms = task.train()(batch, task.prepare(batch, 0))
    losses = [value for name, value in terms.items() if name in ("classification", "bbox_regression", "bbox_ctrness")]
    sums = [value for name, value in terms.items() if name.startswith("weighted/")]
    torch.testing.assert_close(loss, torch.stack(losses).sum() + torch.stack(sums).sum())
    for name, value in terms.items():
        if name.startswith("weighted/"):
            plain, part = terms[name.removeprefix("weighted/")], name.removeprefix("weighted/").rpartition("/")[0]
            assert value.item() == pytest.approx(plain.item() * terms[f"weight/{part}"].item() / 2, rel=1e-5)  # a mean over two levels


def test_a_term_that_is_not_finite_is_named_and_leaves_the_state_alone(dataset: Dataset, tmp_path: Path) -> None:
    task = distillation()
    plain = task.prepare

    def broken(batch: TrainingBatch, step: int) -> Any:
        lesson = plain(batch, step)
        assert lesson is not None
        if step == 2:
            lesson.teacher.pyramid[1][0, 0, 0, 0] = float("nan")
        return lesson

    task.prepare = broken  # type: ignore[method-assign]
    with pytest.raises(ArtifactError, match=r"test: attention/feature/16 is nan at step 2 \(epoch 1\)"):
        trained(dataset, tmp_path / "run", task)
    assert all(map(math.isfinite, task.balance.state_dict()["logs"].values()))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_finds_nearly_the_same(half: torch.dtype) -> None:
    """Trainings use it on a GPU only, but autocast is here, too."""
    factors, sampled = [], []
    batch = TrainingBatch(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)), (tiny.target(), tiny.target()))
    for enabled in (False, True):
        task = distillation().train()
        with torch.autocast("cpu", half, enabled=enabled):
            _, terms = task(batch, task.prepare(batch, 0))
        factors.append({part: task.balance.factor(part) for part in task.balance.found()})
        sampled.append({name: value.item() for name, value in terms.items() if name.startswith("share/")})
    assert factors[1] == pytest.approx(factors[0], rel=0.1)
    assert sampled[1] == pytest.approx(sampled[0], rel=0.1)


def test_measuring_changes_no_weight_of_a_training_with_numbers(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factors of a measured training, held fixed from the start, train the same weights."""
    once = trained(dataset, tmp_path / "numbers", distillation(tiny.LOSSES, every=0))
    monkeypatch.setattr(Balance, "due", lambda *_: True)
    often = trained(dataset, tmp_path / "measured", distillation(tiny.LOSSES, every=0))
    assert all(torch.equal(once[name], often[name]) for name in once)


def test_all_processes_take_the_mean_of_their_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, together = distillation(), distillation()
    batch = TrainingBatch(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)), (tiny.target(), tiny.target()))
    alone.train()(batch, alone.prepare(batch, 0))
    ones: Callable[[Tensor], Tensor] = torch.ones_like
    monkeypatch.setattr("stages.training.distillation.mean_over_processes", ones)
    together.train()(batch, together.prepare(batch, 0))
    assert set(together.balance.state_dict()["logs"].values()) == {0.0}
    assert alone.balance.state_dict()["logs"].keys() == together.balance.state_dict()["logs"].keys()


class TestParts:
    """A step whose batch is processed in parts."""

    def test_they_are_one_measurement_the_mean_of_their_norms_which_counts_from_the_next_step_on(self) -> None:
        images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
        parts = TrainingBatch(images, (tiny.target(),) * 4).split(2)
        norms = []
        for part in parts:
            single = distillation().train()
            single(replace(part, parts=1), single.prepare(part, 0))
            single.end_step()
            norms.append({name: math.exp(log) for name, log in single.balance.state_dict()["logs"].items()})
        task = distillation().train()
        for step in range(2):
            before = task.balance.state_dict()
            for part in parts:
                _, terms = task(part, task.prepare(part, step))
                assert task.balance.state_dict() == before
                weights = {name: value.item() for name, value in terms.items() if name.startswith("weighted/")}
                assert all((value > 0) == (step > 0) for value in weights.values())
            task.end_step()
        means = {name: math.log((norms[0][name] + norms[1][name]) / 2) for name in norms[0]}
        assert task.balance.state_dict()["logs"] == pytest.approx(means, rel=1e-4)
        assert set(task.balance.state_dict()["counts"].values()) == {2}

    def test_a_training_measures_as_often_as_one_without_parts(
        self, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[Mapping[str, float]] = []
        see = Balance.see

        def recorded(self: Balance, norms: Mapping[str, float]) -> None:
            seen.append(norms)
            see(self, norms)

        monkeypatch.setattr(Balance, "see", recorded)
        trained(dataset, tmp_path / "parts", distillation(), epochs=2, accumulate=2)
        assert len(seen) == sum(Balance({"a": "auto"}, 0.5).due(step) for step in range(6)) == 4
        assert all(row["weight/non_local/relation"] > 0 for row in rows(tmp_path / "parts"))


class TestConfiguration:
    @pytest.mark.parametrize("wrong", ["Auto", "automatic", -1, None, float("nan")])
    def test_a_weight_is_a_number_or_auto(self, wrong: object) -> None:
        with pytest.raises(ValidationError):
            DistillConfig.model_validate({"losses": [{"name": "attention", "weight": wrong}]})

    def test_a_misspelled_auto_is_answered_with_what_is_allowed(self) -> None:
        with pytest.raises(ValidationError, match=r'got "atuo" \(did you mean auto\?\), allowed: a number of 0 or more, or auto'):
            tiny.distillation(losses=[{"name": "attention", "weight": "atuo"}])

    @pytest.mark.parametrize("share", [0, 1, 1.5])
    def test_the_share_leaves_something_to_the_task(self, share: float) -> None:
        with pytest.raises(ValidationError, match="share"):
            tiny.distillation(share=share)

    def test_it_counts_as_a_loss_wherever_losses_are_counted(self) -> None:
        student = {"detector": tiny.STUDENT, "train": {"epochs": 1}}
        config = PipelineConfig.model_validate(
            {
                "name": "auto",
                "data": {"dataset": "digits"},
                "teacher": {"detector": tiny.TEACHER},
                "student": student,
                "distill": {"losses": tiny.AUTO},
                "targets": [{"name": "cpu", "runtime": "ort"}],
            }
        )
        assert [loss.name for loss in ablated(config)["attention"]] == ["attention"]
        timed = step_options(config.distill, config.student, config.teacher)[0]
        assert [(loss.name, loss.weight) for loss in timed.losses] == [("attention", 1.0), ("non_local", 1.0)]
        other = config.distill.model_copy(update={"share": 0.3})
        assert step_options(other, config.student, config.teacher)[0] == timed  # a step takes as long with any share
