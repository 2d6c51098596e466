"""The training loop, the same for teacher, baseline and student.

accelerate handles device, precision, distribution, checkpoints and trackers.
"""

import csv
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from deploy.comparison.learning_curve import LearningCurve
from deploy.errors import DataError
from deploy.progress import Steps
from stages.artifacts import LOSS_CURVES, Dataset
from stages.config import StudentViewConfig, TrainConfig
from stages.detectors import Detector
from stages.training.batches.loader import TrainingBatch, TrainingImages, default_workers, loader
from stages.training.batches.streams import EpochBatches, Stream, Unseen
from stages.training.device import accelerator_for, leave_cores
from stages.training.layers.compiling import compile_layers, restore_layers
from stages.training.layers.normalization import restore_norms, single_values_refused, synchronize_norms
from stages.training.observer import Detections, Observer
from stages.training.optimizer import averaged, learning_rate, optimizer_for
from stages.training.saved_state import Progress, SavedState, Stateful
from stages.training.step_log import StepLog

_READS, _COMPUTES = "reads images", "computes, or waits for others"


class Task(nn.Module):
    """What is trained: a detector, with whatever a subclass adds to its losses.

    memory: what a stopped training needs to continue in addition to the weights.
    streams: images that each step has in addition to the labeled ones. reads_labeled: if false, these only count the steps.
    """

    memory: tuple[Stateful, ...] = ()
    streams: Mapping[str, Stream] = MappingProxyType({})
    reads_labeled: bool = True

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: TrainingBatch, extra: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimize and its named terms."""
        losses = dict(self.detector(batch.images, batch.targets).losses)
        return torch.stack(list(losses.values())).sum(), losses

    def prepare(self, batch: TrainingBatch, step: int) -> Any:
        """What `forward` receives as `extra`; called outside the distributed module, without gradient."""
        return None

    def end_step(self) -> None:
        """Learn that all parts of a step's batch have been through `forward`."""

    def follow(self, averaged: nn.Module) -> None:
        """Learn which module has the averaged weights, before the first step; without averaging, the detector itself."""


class Trainer:
    """One training in a folder; started again there, it continues after the last finished epoch."""

    def __init__(
        self,
        task: Task,
        dataset: Dataset,
        config: TrainConfig,
        *,
        seed: int,
        device: str,
        folder: Path,
        label: str,
        observer: Observer | None = None,
        student_view: StudentViewConfig | None = None,
    ) -> None:
        self._config = config
        self._seed = seed
        self._folder = folder
        self._label = label
        self._accelerator = accelerator_for(config, device, folder)
        images = TrainingImages(dataset, config, seed, masks=task.detector.mask_frame is not None, student_view=student_view)
        processes = self._accelerator.num_processes
        self._batches = EpochBatches(len(images), config.batch_size, seed, self._accelerator.process_index, processes)
        workers = default_workers() if config.workers is None else config.workers
        leave_cores(workers)
        self._loader = loader(images if task.reads_labeled else Unseen(), self._batches, workers, task.streams)
        self._log = StepLog(label, self._accelerator.device)
        task.to(self._accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = optimizer_for(task, config)
        self._num_steps = config.num_steps(len(images))
        self._observer = observer
        self._judged = () if observer is None else observer.steps(self._num_steps, self._batches.batch_size)
        schedule = learning_rate(config, self._num_steps)
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        self._task = task
        self._ema = averaged(task.detector, config.ema) if config.ema else None
        task.follow(self._ema.module if self._ema else task.detector)
        self._progress = Progress()
        self._model, self._optimizer = self._accelerator.prepare(task, optimizer)
        self._saved = SavedState(folder, self._accelerator)
        kept = [self._scheduler, self._progress, *([self._ema] if self._ema else []), *task.memory]
        self._accelerator.register_for_checkpointing(*kept)
        if config.compile:
            compile_layers(task.detector)
        synchronize_norms(task)

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        device: torch.device = self._accelerator.device
        return device

    @property
    def place(self) -> tuple[int, int]:
        """The index of this process, and the number of processes that train together."""
        return self._accelerator.process_index, self._accelerator.num_processes

    def run(self) -> Detector:
        """Train to the last epoch and return the detector whose weights are shipped: the average if there is one.

        Raises:
            Diverged: a loss is not finite; the message names it and its step.
            ConfigError: batch normalization over a single value; torch.compile does not work on this machine.
            DataError: an image is unusable.
        """
        torch.manual_seed(self._seed + self._accelerator.process_index)  # some detectors sample regions, or add noise to boxes
        self._saved.load()
        self._accelerator.init_trackers("training")
        with single_values_refused(self._task, self._label), Steps(self._label, self._num_steps, self._progress.step) as steps:
            try:
                while self._progress.epoch < self._config.epochs:
                    self._epoch(steps)
                    self._saved.save()
            finally:
                self._loader.close()
                restore_layers(self._task.detector)
                restore_norms(self._task)
        for tracker in self._accelerator.trackers:
            tracker.finish()
        if self._accelerator.is_main_process and self._progress.rows:
            self._write_curves()
        trained = self._ema.module if self._ema else self._task.detector
        assert isinstance(trained, Detector)
        return trained.eval()

    def curve(self, detections: Detections) -> LearningCurve | None:
        """How mAP rose, given the trained detector's detections on the split; None if nobody observed it, or nothing was trained."""
        if self._observer is None or not self._num_steps:
            return None
        return self._observer.curve(self._progress.seen, detections, self._num_steps)

    def _epoch(self, steps: Steps) -> None:
        self._batches.epoch = self._progress.epoch
        self._model.train()
        sums: dict[str, list[float]] = defaultdict(list)
        began, away = time.perf_counter(), 0.0
        steps.phase = _READS
        for batch in self._loaded():
            steps.phase = _COMPUTES
            self._count(sums, self.step(batch))
            if self._is_observed:
                self._count(sums, self._log.fetch())
            steps.advance(self._log.note)
            away += self._look()
            steps.phase = _READS
        self._count(sums, self._log.fetch())
        row = {name: statistics.fmean(values) for name, values in sums.items()}
        row["learning_rate"] = float(self._scheduler.get_last_lr()[0])
        row["images_per_s"] = len(self._batches) * self._batches.batch_size / (time.perf_counter() - began - away)
        self._progress.epoch += 1
        self._progress.rows.append({"epoch": self._progress.epoch, **row})
        self._accelerator.log(row, step=self._progress.epoch)

    def _count(self, sums: Mapping[str, list[float]], rows: Sequence[Mapping[str, float]]) -> None:
        for row in rows:
            for name, value in row.items():
                sums[name].append(value)

    @property
    def _is_observed(self) -> bool:
        """Whether the weights are judged after this step."""
        return self._observer is not None and self._progress.step in self._judged

    def _look(self) -> float:
        """Judge the weights if it is time to; returns the seconds that it took."""
        if self._observer is None or not self._is_observed:
            return 0.0
        began = time.perf_counter()
        trained = self._ema.module if self._ema else self._task.detector
        where = self._accelerator.device, self._progress.step, self._num_steps
        self._progress.seen.append(self._observer.seen(trained, *where, self._label))
        return time.perf_counter() - began

    def _loaded(self) -> Iterator[TrainingBatch]:
        """The epoch's batches.

        Raises:
            DataError: an image is unusable.
        """
        for batch in self._loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def step(self, batch: TrainingBatch) -> list[dict[str, float]]:
        """One step on a batch; the terms of all steps that were fetched from the device now, see StepLog.

        Raises:
            Diverged: a term is not finite; the message names it and its step.
        """
        self._log.begin(self._progress.step, self._progress.epoch)
        self._optimizer.zero_grad()
        self._task.detector.progress(self._progress.step / max(1, self._num_steps))
        parts = batch.to(self._accelerator.device).split(self._config.accumulate)
        for part in parts:
            self._part(part, len(part.targets) / len(batch.targets), last=part is parts[-1])
        self._task.end_step()
        if self._config.clip is not None:
            self._log.add_norm(self._accelerator.clip_grad_norm_(self._model.parameters(), self._config.clip))
        self._optimizer.step()
        self._scheduler.step()
        self._progress.step += 1
        if self._ema:
            self._ema.update_parameters(self._task.detector)
        return self._log.fetch() if self._log.is_due else []

    def _part(self, batch: TrainingBatch, share: float, *, last: bool) -> None:
        """Forward and backward of a part of a batch; processes exchange gradients only after the last part."""
        with nullcontext() if last else self._accelerator.no_sync(self._model):
            with self._accelerator.autocast():
                extra = self._task.prepare(batch, self._progress.step)
                loss, terms = self._model(batch, extra)
            self._log.add(share, loss, terms)
            self._accelerator.backward(loss * share)

    def _write_curves(self) -> None:
        names = list(dict.fromkeys(name for row in self._progress.rows for name in row))
        with (self._folder / LOSS_CURVES).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self._progress.rows)
