"""The memory of a plain and of a distilled training step."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from deploy.errors import DataError
from stages.artifacts import Dataset
from stages.config import DetectorConfig, DistillConfig, StudentConfig
from stages.facts import StepMemoryFacts
from stages.training.batches.loader import TrainingBatch, TrainingImages, collate
from stages.training.batches.streams import EpochBatches
from stages.training.costs.timing import tasks_of
from stages.training.distillation import Distillation
from stages.training.loop import Trainer
from stages.training.unlabeled.timed import with_unlabeled

WARMUP = 2
"""Steps before the measured one: the optimizer makes its state in the first, and the second one is as all later ones."""


def measure_memory(
    folder: Path, config: DistillConfig, student: StudentConfig, teacher: DetectorConfig, device: str, dataset: Dataset
) -> StepMemoryFacts:
    """Train two students with fresh weights for three steps, one of them with a teacher with fresh weights.

    Raises:
        ConfigError: a loss cannot be built for this pair.
        DataError: an image is unusable.
    """
    found: dict[str, int] = {}
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
        tasks = tasks_of(config, student, teacher, dataset.facts.contract.classes)
        for name, task in tasks.items():
            trainer = Trainer(task, dataset, student.train, seed=0, device=device, folder=folder, label=f"{name} step")
            batch = _batch(dataset, student, config if name == "distilled" else None, masks=task.detector.mask_frame is not None)
            for _ in range(WARMUP):
                trainer.step(batch)
            found[name] = _peak(trainer, batch)
    distilled = tasks["distilled"]
    assert isinstance(distilled, Distillation)
    held = _bytes(distilled.teacher.detector) + _bytes(distilled.losses)
    extra = sum(parameter.numel() for parameter in distilled.losses.parameters())
    device = str(trainer.device)
    return StepMemoryFacts(plain_bytes=found["plain"], distilled_bytes=found["distilled"] + held, extra_parameters=extra, device=device)


def _batch(dataset: Dataset, student: StudentConfig, taught: DistillConfig | None, *, masks: bool) -> TrainingBatch:
    """What a step has in memory: if a teacher teaches, also the view that it sees, and the images without labels."""
    images = TrainingImages(dataset, student.train, 0, masks=masks, student_view=None if taught is None else taught.student_view)
    keys = next(iter(EpochBatches(len(images), student.train.batch_size, 0, 0, 1)))
    batch = collate([images[key] for key in keys])
    if isinstance(batch, DataError):
        raise batch
    own = None if taught is None else taught.from_unlabelled
    return batch if own is None else with_unlabeled(batch, own.ratio)


def _peak(trainer: Trainer, batch: TrainingBatch) -> int:
    """Bytes of tensors beyond those held before the step; on a CPU, which counts none, of those kept for the backward pass."""
    if trainer.device.type == "cuda":
        before = torch.cuda.memory_allocated(trainer.device)
        torch.cuda.reset_peak_memory_stats(trainer.device)
        trainer.step(batch)
        return torch.cuda.max_memory_allocated(trainer.device) - before
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.step(batch)
    return sum(kept.values())


def _bytes(module: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in [*module.parameters(), *module.buffers()])
