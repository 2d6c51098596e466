"""A student that learns from its targets and from a frozen teacher at once."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deploy import plugins, preprocess
from deploy.errors import ConfigError
from stages.artifacts import Dataset, read_json
from stages.attention_maps import spatial_attention, standardized
from stages.config import DistillConfig
from stages.detectors import Detector, Outputs
from stages.loader import Batch
from stages.loop import Task
from stages.losses import Loss, Pyramid


def build_losses(config: DistillConfig, student: Detector, teacher: Detector, seed: int) -> dict[str, tuple[Loss, float]]:
    """The configured losses with their weights; their adapters' fresh weights depend on the seed and draw nothing else.

    Raises:
        ConfigError: options that do not go together.
    """
    own, other = Pyramid(student.strides, student.channels), Pyramid(teacher.strides, teacher.channels)
    losses: dict[str, tuple[Loss, float]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        for choice in config.losses:
            try:
                losses[choice.name] = (plugins.load("stages.losses", choice.name).build(own, other, **choice.options), choice.weight)
            except ValueError as error:
                raise ConfigError(f"distill.losses: {choice.name}: {error}") from error
    return losses


def loss_factor(config: DistillConfig, num_steps: int) -> Callable[[int], float]:
    """The factor on the losses' weights at each of a training's steps: linear warm-up, then the fade."""

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        left = max(0.0, 1 - step / max(1, num_steps))
        match config.fade:
            case "linear":
                return warmup * left
            case "cosine":
                return warmup * 0.5 * (1 - math.cos(math.pi * left))
        return warmup

    return factor


class Distillation(Task):
    """The student with its adapters; the teacher stands outside, so that no optimizer or checkpoint holds it."""

    def __init__(
        self, detector: Detector, teacher: Detector, losses: Mapping[str, tuple[Loss, float]], factor: Callable[[int], float]
    ) -> None:
        super().__init__(detector)
        self.losses = nn.ModuleDict({name: loss for name, (loss, _) in losses.items()})
        self._weights = {name: weight for name, (_, weight) in losses.items()}
        self._factor = factor
        self._teacher = (teacher.eval().requires_grad_(False),)

    def prepare(self, batch: Batch, step: int) -> tuple[Outputs, float]:
        """The teacher's outputs on the student's own view, and the factor on the losses' weights."""
        teacher = self._teacher[0].to(batch.images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            outputs: Outputs = teacher(batch.images)
        return outputs, self._factor(step)

    def forward(self, batch: Batch, extra: tuple[Outputs, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """The task losses as the baseline sums them, plus each weighted term; terms are reported unweighted."""
        teacher, factor = extra
        student: Outputs = self.detector(batch.images, batch.targets)
        terms = dict(student.losses)
        total = torch.stack(list(terms.values())).sum()
        for name, loss in self.losses.items():
            for term, value in loss(student, teacher, batch.targets).items():
                terms[f"{name}/{term}"] = value
                total = total + value * (self._weights[name] * factor)
        return total, terms


def write_attention(out: Path, teacher: Detector, student: Detector, dataset: Dataset, split: str, num_images: int = 6) -> None:
    """Spatial attention of both networks on the split's first images, the mean over levels at the finest one's size, to attention.npz.

    Arrays `teacher` and `student` [num_images, H, W] in float32, over the network's input, and `image_ids`.
    """
    contract = dataset.facts.contract
    rows = read_json(dataset.annotations(split))["images"][:num_images]
    images = [preprocess.apply(preprocess.load_image(dataset.images(split) / row["file_name"]), contract.preprocessing)[0] for row in rows]
    batch = torch.from_numpy(np.stack(images))
    large, small = (_attention(network.cpu().eval(), batch).numpy() for network in (teacher, student))
    np.savez_compressed(out / "attention.npz", image_ids=np.array([row["id"] for row in rows]), teacher=large, student=small)


@torch.no_grad()
def _attention(network: Detector, images: Tensor) -> Tensor:
    levels = [spatial_attention(standardized(level)) for level in network(images).pyramid]
    size = levels[0].shape[-2:]
    return torch.stack([nn.functional.interpolate(level, size=size, mode="bilinear") for level in levels]).mean(dim=0)[:, 0]
