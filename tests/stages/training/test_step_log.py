"""Losses are fetched from a device for several steps together, and are the same as if they were fetched after each."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from deploy.errors import ArtifactError
from stages.artifacts import LOSS_CURVES
from stages.training import step_log
from stages.training.batches.loader import TrainingBatch
from stages.training.checkpoint import build_detector
from stages.training.loop import Task, Trainer
from stages.training.step_log import EVERY_GPU, StepLog

GPU = torch.device("cuda")


def test_terms_are_weighted_by_their_parts_and_come_in_the_order_of_steps() -> None:
    log = StepLog("x", GPU)
    empty = log.note
    for step in range(3):
        log.begin(step, 0)
        log.add(0.75, torch.tensor(2.0 + step), {"a": torch.tensor(1.0)})
        log.add(0.25, torch.tensor(4.0), {"a": torch.tensor(5.0), "b": torch.tensor(8.0)})
        log.add_norm(torch.tensor(10.0 * step))
    assert not log.is_due
    assert not empty
    rows = log.fetch()
    assert [row["loss"] for row in rows] == [2.5, 3.25, 4.0]
    assert [(row["a"], row["b"], row["grad_norm"]) for row in rows] == [(2.0, 2.0, 0.0), (2.0, 2.0, 10.0), (2.0, 2.0, 20.0)]
    assert log.note == "loss 4.000"
    assert log.fetch() == []


def test_a_step_goes_without_norms_and_shares_that_are_not_finite() -> None:
    """As in half precision, whose overflows the scaled loss survives."""
    log = StepLog("x", GPU)
    nan, inf, loss = (torch.tensor(value) for value in (math.nan, math.inf, 2.0))
    for shares, norm in (((loss, nan), inf), ((loss, loss), nan), ((inf, loss), loss)):
        log.begin(0, 0)
        for share in shares:
            log.add(0.5, loss, {"a": loss, "share/a": share})
        log.add_norm(norm)
    assert log.fetch() == [{"loss": 2.0, "a": 2.0}, {"loss": 2.0, "a": 2.0, "share/a": 2.0}, {"loss": 2.0, "a": 2.0, "grad_norm": 2.0}]


def test_a_gpu_is_asked_once_for_many_steps_a_cpu_after_each(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    tolist = Tensor.tolist

    def counted(tensor: Tensor) -> Any:
        asked.append(len(tensor))
        return tolist(tensor)

    monkeypatch.setattr(Tensor, "tolist", counted)
    for device, times in ((GPU, 2), (torch.device("cpu"), 2 * EVERY_GPU)):
        log = StepLog("x", device)
        asked.clear()
        for step in range(2 * EVERY_GPU):
            log.begin(step, 0)
            log.add(1.0, torch.tensor(1.0), {})
            if log.is_due:
                log.fetch()
        assert len(asked) == times


class Sick(Task):
    """A task with a term that is infinite in its sixth step only."""

    steps = 0

    def forward(self, batch: TrainingBatch, extra: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = super().forward(batch, extra)
        self.steps += 1
        return loss, {**terms, "sick": torch.tensor(float("inf") if self.steps == 6 else 0.0)}


def trained(folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch, every: int) -> list[dict[str, str]]:
    data = tiny.dataset(folder / "data")
    training = Trainer(task, data, tiny.schedule(accumulate=2), seed=0, device="cpu", folder=folder, label="student")
    monkeypatch.setattr(training._log, "_every", every)
    training.run()
    return list(csv.DictReader(io.StringIO((folder / LOSS_CURVES).read_text())))


def test_a_term_that_was_not_finite_some_steps_ago_is_named_with_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Sick(build_detector(tiny.detector(), 10))
    with pytest.raises(ArtifactError, match=r"student: sick is inf at step 2 \(epoch 1\)"):
        trained(tmp_path, task, monkeypatch, every=100)
    assert task.steps == 6  # of the epoch, whose end is where all are fetched


def test_curves_do_not_depend_on_when_terms_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [trained(tmp_path / str(every), Task(build_detector(tiny.detector(), 10)), monkeypatch, every) for every in (1, 2, 100)]
    for row in (row for table in rows for row in table):
        row.pop("images_per_s")
    assert rows[0] == rows[1] == rows[2]
    assert step_log.EVERY_GPU > 1
