"""The times of a plain and of a distilled training step, measured alternately in short blocks.

Whatever slows the machine down affects both alike, so their ratio holds on a busy machine too. On a CPU the ratio is one of processor
time, in which the work of others does not count at all.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.comparison.bootstrap import blocks
from deploy.contract import Ratio
from stages.artifacts import Dataset
from stages.config import DetectorConfig, DistillConfig, StudentConfig, StudentViewConfig, TrainConfig
from stages.processes import mean_over_processes
from stages.training.batches.loader import TrainingBatch, TrainingImages, collate, default_workers
from stages.training.batches.streams import EpochBatches
from stages.training.checkpoint import build_detector
from stages.training.distillation import Distillation, build_losses, loss_factor
from stages.training.loop import Task, Trainer
from stages.training.teacher import Teacher
from stages.training.unlabeled.timed import timed_task, with_unlabeled

Floats = NDArray[np.float64]
Step = Callable[[TrainingBatch], object]
KINDS = ("plain", "distilled")

NUM_BATCHES = 4
WARMUP = 2
"""Steps of each kind before measuring begins; the second one decides how many fit a block."""
BLOCK_S = 0.1
UNCOUNTED = 1
"""Steps at the start of a block of several that are not counted: the caches still hold the other kind's data."""
MIN_ROUNDS, LOOK_EVERY = 8, 4
RATIO_WIDTH = 0.04
"""Measuring ends when the 95% interval of the ratio is at most this share of it wide."""
BUDGET_S, FEWEST_ROUNDS = 12.0, 4
"""Seconds after which measuring ends anyway, once there are this many blocks of each."""


@dataclass(frozen=True)
class Taken:
    """How long something took: `seconds` on the wall and, on a CPU, of processor time per thread in `own`; otherwise the same."""

    seconds: float
    own: float

    def times(self, factor: float) -> "Taken":
        """How long so much more of the same takes."""
        return Taken(self.seconds * factor, self.own * factor)


@dataclass(frozen=True)
class Stopwatch:
    """Measures steps on a device."""

    device: torch.device

    def time(self, work: Callable[[], object], threads: int = 1) -> Taken:
        """Do it, and everything that it starts on the device, with this number of threads."""
        own = process_time if self.device.type == "cpu" else perf_counter
        began, own_began = perf_counter(), own()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        took, own_took = perf_counter() - began, own() - own_began
        return Taken(took, own_took / threads if self.device.type == "cpu" else own_took)


@dataclass(frozen=True)
class MeasuredSteps:
    """Median seconds of a step, waiting for images included, and the ratio of the two with its 95% interval."""

    plain_s: float
    distilled_s: float
    ratio: Ratio
    rounds: int
    device: str


def measure_steps(
    folder: Path, config: DistillConfig, student: StudentConfig, teacher: DetectorConfig, device: str, dataset: Dataset
) -> MeasuredSteps:
    """Train two students with fresh weights, one of them with a teacher with fresh weights; `folder` is for scratch files.

    Raises:
        ConfigError: a loss cannot be built for this pair.
        DataError: an image is unusable.
    """
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            tasks = tasks_of(config, student, teacher, dataset.facts.contract.classes)
            trainers = {
                name: Trainer(task, dataset, student.train, seed=0, device=device, folder=folder, label=f"{name} step")
                for name, task in tasks.items()
            }
            masks = tasks["plain"].detector.mask_frame is not None
            watch = Stopwatch(trainers["plain"].device)
            batches, read = _batches(dataset, student.train, trainers["plain"], watch, masks=masks)
            reads = {"plain": read, "distilled": read}
            if not (view := config.student_view).is_clean:
                reads["distilled"] = _batches(dataset, student.train, trainers["plain"], watch, masks=masks, student_view=view)[1]
            if (own := config.from_unlabelled) is not None:
                reads["distilled"] = reads["distilled"].times(own.images_per_labeled)
                batches = [with_unlabeled(batch, own.ratio) for batch in batches]
            taken = _alternate({name: trainer.step for name, trainer in trainers.items()}, batches, watch)
    finally:
        torch.set_num_threads(threads)
    return _measured(taken, reads, _workers(student.train), str(watch.device))


def tasks_of(config: DistillConfig, student: StudentConfig, teacher: DetectorConfig, classes: Sequence[str]) -> dict[str, Task]:
    """A plain and a distilled training's task, of networks with fresh weights."""
    plain, distilled, large = (
        build_detector(choice, len(classes), pretrained=False) for choice in (student.detector, student.detector, teacher)
    )
    losses = build_losses(config, distilled, large, seed=0)
    guide = Teacher(large, config.teacher_precision, compiled=config.compile_teacher)
    taught: Task = Distillation(distilled, guide, losses, loss_factor(config, 1))
    if config.from_unlabelled is not None:
        taught = timed_task(distilled, guide, losses, config, classes)
    return {name: task.train() for name, task in {"plain": Task(plain), "distilled": taught}.items()}


def _workers(train: TrainConfig) -> int:
    return default_workers() if train.workers is None else train.workers


def _batches(
    dataset: Dataset,
    train: TrainConfig,
    trainer: Trainer,
    watch: Stopwatch,
    *,
    masks: bool,
    student_view: StudentViewConfig | None = None,
) -> tuple[list[TrainingBatch], Taken]:
    """Some batches of this process, and the median time that reading one takes where training reads it.

    Loader processes keep no images, so they read a batch as for the first time; without them, images are read once and kept.
    """
    images = TrainingImages(dataset, train, 0, masks=masks, student_view=student_view)
    order = EpochBatches(len(images), train.batch_size, 0, *trainer.place)
    chosen, taken = list(islice(order, NUM_BATCHES)), list[Taken]()
    for _ in range(1 if _workers(train) else 2):
        taken = [watch.time(partial(_read, images, keys)) for keys in chosen]
    return [_read(images, keys) for keys in chosen], Taken(*(float(np.median(values)) for values in zip(*map(astuple, taken), strict=True)))


def _read(images: TrainingImages, keys: Sequence[tuple[int, int]]) -> TrainingBatch:
    batch = collate([images[key] for key in keys])
    assert isinstance(batch, TrainingBatch)
    return batch


def _alternate(steps: Mapping[str, Step], batches: Sequence[TrainingBatch], watch: Stopwatch) -> dict[str, list[list[Taken]]]:
    """The times of each counted step by kind, [rounds, steps per block], until their ratio is known or the time is up.

    All processes of a distributed training decide alike.
    """
    supply, order = cycle(batches), random.Random(0)  # noqa: S311 - decides which kind begins
    slowest = max(_block(step, list(islice(supply, WARMUP)), watch)[-1].own for step in steps.values())
    length = max(1, round(BLOCK_S / max(_shared(slowest, watch), 1e-6)))
    taken: dict[str, list[list[Taken]]] = {name: [] for name in steps}
    rounds, began = 0, perf_counter()
    while not _enough(taken, rounds, perf_counter() - began, watch):
        chosen = list(islice(supply, length + UNCOUNTED if length > 1 else 1))
        for name in order.sample(list(steps), len(steps)):
            taken[name].append(_block(steps[name], chosen, watch)[-length:])
        rounds += 1
    return taken


def _block(step: Step, batches: Sequence[TrainingBatch], watch: Stopwatch) -> list[Taken]:
    return [watch.time(partial(step, batch), torch.get_num_threads()) for batch in batches]


def _enough(taken: Mapping[str, list[list[Taken]]], rounds: int, spent: float, watch: Stopwatch) -> bool:
    if rounds >= FEWEST_ROUNDS and _shared(spent, watch) >= BUDGET_S:
        return True
    if rounds < MIN_ROUNDS or rounds % LOOK_EVERY:
        return False
    found = _ratio(*(_times(taken[name])[..., 1] for name in KINDS))
    return _shared((found.high - found.low) / found.ratio, watch) <= RATIO_WIDTH


def _times(taken: Sequence[Sequence[Taken]]) -> Floats:
    """[rounds, steps per block, 2]: on the wall, and of their own."""
    return np.array([[astuple(one) for one in block] for block in taken])


def _shared(value: float, watch: Stopwatch) -> float:
    """The mean over processes, so that all of them go on or end together."""
    return float(mean_over_processes(torch.tensor(value, device=watch.device)))


def _ratio(plain: Floats, distilled: Floats) -> Ratio:
    """The ratio of medians; blocks are drawn with replacement."""
    found = blocks(distilled, plain, lambda values: np.asarray(np.median(values, axis=-1)), relative=True, error_rate=0.025)
    return Ratio(ratio=1 + found.change, low=1 + found.low, high=1 + found.high)


def _measured(taken: Mapping[str, list[list[Taken]]], reads: Mapping[str, Taken], workers: int, device: str) -> MeasuredSteps:
    times = {name: _times(taken[name]) for name in KINDS}
    plain_s, distilled_s = (float(np.median(with_reading(times[name][..., 0], reads[name].seconds, workers))) for name in KINDS)
    ratio = _ratio(*(with_reading(times[name][..., 1], reads[name].own, workers) for name in KINDS))
    return MeasuredSteps(plain_s, distilled_s, ratio, len(times["plain"]), device)


def with_reading(steps: Floats, read_s: float, workers: int) -> Floats:
    """Seconds per step with its images: loader processes read ahead, so the slower side decides; without them, one waits for the other.

    Args:
        steps: seconds of steps whose batches are at hand.
        read_s: seconds in which one process reads a batch.
    """
    return np.maximum(steps, read_s / workers) if workers else steps + read_s
