"""The times of a plain and of a distilled step: what decides them, and that measuring leaves everything else as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from clock import Clock

from pipeline.store import keys
from stages.artifacts import Dataset
from stages.config import StudentConfig, TeacherConfig
from stages.time_steps import step_options, time_steps
from stages.training.batches.loader import TrainingBatch
from stages.training.costs import timing


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny.dataset(tmp_path_factory.mktemp("data"))


def options(distill: dict[str, Any] | None = None, student: dict[str, Any] | None = None, teacher: dict[str, Any] | None = None) -> Any:
    """What is passed to the stage for these changes of the tiny configuration."""
    trained = StudentConfig(detector=tiny.detector(), train=tiny.schedule(**(student or {})))
    return step_options(
        tiny.distillation(**(distill or {})),
        trained,
        TeacherConfig(detector=tiny.detector(tiny.TEACHER), train=tiny.schedule(**(teacher or {}))),
    )


def key(dataset: Dataset, **changes: Any) -> str:
    return keys.key_of(keys.parts_of(time_steps, *options(**changes), "cpu", dataset))


@pytest.mark.parametrize(
    "changes",
    [
        {"distill": {"losses": [{**loss, "weight": 7.0} for loss in tiny.LOSSES]}},
        {"distill": {"warmup_steps": 9, "fade": "cosine", "shares_every": 3}},
        {"student": {"epochs": 90, "learning_rate": 0.3, "schedule": "constant", "warmup_steps": 50, "weight_decay": 0.0}},
        {"teacher": {"epochs": 90, "batch_size": 2}},
    ],
    ids=["weights", "schedule of the losses", "schedule of the student", "training of the teacher"],
)
def test_what_does_not_change_a_steps_time_does_not_measure_again(dataset: Dataset, changes: dict[str, Any]) -> None:
    assert key(dataset, **changes) == key(dataset)


def test_of_images_without_labels_only_their_number_and_what_is_learned_matters(dataset: Dataset) -> None:
    usual = key(dataset, distill={"unlabelled": {}})
    same = ({"pseudo": {"weight": 2.0, "precision": 0.5}}, {"refine": 0.5})
    assert {key(dataset, distill={"unlabelled": one}) for one in same} == {usual}
    others = ({"ratio": 2}, {"features": False}, {"pseudo": None}, {"only": True})
    assert len({usual, *(key(dataset, distill={"unlabelled": one}) for one in others)}) == 5
    assert key(dataset, distill={"unlabelled": {"ratio": 0}}) == key(dataset)


@pytest.mark.parametrize(
    "changes",
    [
        {"distill": {"losses": [tiny.LOSSES[0], {**tiny.LOSSES[1], "weight": 0.0}]}},
        {"distill": {"teacher_precision": "bf16"}},
        {"distill": {"unlabelled": {}}},
        {"student": {"batch_size": 2}},
        {"student": {"augment": [{"name": "mosaic"}]}},
        {"student": {"optimizer": "sgd"}},
        {"student": {"ema": None}},
    ],
    ids=["no such loss", "precision", "images without labels", "batch", "views", "optimizer", "average"],
)
def test_what_changes_a_steps_time_measures_again(dataset: Dataset, changes: dict[str, Any]) -> None:
    assert key(dataset, **changes) != key(dataset)


def test_real_steps_are_timed_and_nothing_else_is_touched(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "BUDGET_S", 0.0)
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    config, student, teacher = options(student={"augment": [{"name": "flip"}]})
    facts = time_steps(tmp_path, config, student, teacher, "cpu", dataset).facts
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert facts.rounds == timing.FEWEST_ROUNDS
    assert facts.device == "cpu"
    assert facts.plain_s > 0
    assert facts.distilled_s > 0
    assert 1 < facts.ratio.low <= facts.ratio.ratio <= facts.ratio.high
    assert {path.name for path in tmp_path.iterdir()} == {"artifact.json"}


class TimedMachine:
    """Steps that take made-up times on a made-up clock, `noise` of them at most longer; if `busy`, others' work comes and goes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, noise: float, *, busy: bool = False) -> None:
        self.clock = Clock()
        self.clock.replace(monkeypatch, "stages.training.costs.timing.perf_counter", "stages.training.costs.timing.process_time")
        self.random = np.random.default_rng(0)
        self.noise, self.busy = noise, busy

    def step(self, seconds: float) -> timing.Step:
        def take(_: TrainingBatch) -> None:
            slower = 1 + int(self.clock.seconds) % 3 * self.busy
            self.clock.seconds += seconds * slower * (1 + self.noise * self.random.random())

        return take


def alternate(machine: TimedMachine, plain_s: float, distilled_s: float) -> timing.MeasuredSteps:
    steps = {"plain": machine.step(plain_s), "distilled": machine.step(distilled_s)}
    batch: Any = None
    taken = timing._alternate(steps, [batch], timing.Stopwatch(torch.device("cpu")))
    return timing._measured(taken, dict.fromkeys(timing.KINDS, timing.Taken(0.0, 0.0)), 0, "cpu")


def test_the_ratio_holds_on_a_machine_that_is_busy_by_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    found = alternate(TimedMachine(monkeypatch, noise=0.05, busy=True), 0.02, 0.036)
    assert found.ratio.ratio == pytest.approx(1.8, rel=0.03)
    assert found.ratio.low <= 1.8 <= found.ratio.high


def test_measuring_ends_when_the_ratio_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = TimedMachine(monkeypatch, noise=0.0)
    assert alternate(machine, 0.02, 0.036).rounds == timing.MIN_ROUNDS
    assert machine.clock.seconds < timing.BUDGET_S


def test_measuring_ends_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = TimedMachine(monkeypatch, noise=3.0)
    found = alternate(slow, 2.0, 3.6)
    assert found.rounds == timing.FEWEST_ROUNDS
    assert found.ratio.low < found.ratio.high


@pytest.mark.parametrize(
    ("workers", "expected"),
    [(0, [0.13, 0.15]), (1, [0.1, 0.1]), (4, [0.03, 0.05])],
    ids=["one waits for the other", "one process cannot keep up", "four can"],
)
def test_a_step_waits_for_its_images(workers: int, expected: list[float]) -> None:
    assert timing.with_reading(np.array([0.03, 0.05]), 0.1, workers) == pytest.approx(expected)
