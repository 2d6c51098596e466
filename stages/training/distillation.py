"""A student that learns from its targets and from a frozen teacher at the same time."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deploy import plugins
from deploy.errors import ConfigError
from deploy.prediction import image_files, preprocess
from stages.artifacts import ATTENTION, Dataset, read_json
from stages.config import DistillConfig
from stages.detectors import Detector, Outputs, Reading
from stages.losses import Loss, NetworkSide
from stages.losses.features.attention_maps import spatial_attention, standardized
from stages.training.loader import TrainingBatch
from stages.training.loop import Task
from stages.training.teacher import Teacher


def build_losses(config: DistillConfig, student: Detector, teacher: Detector, seed: int) -> dict[str, tuple[Loss, float]]:
    """The configured losses with weight above 0, and their weights.

    New adapters depend on the seed; torch's random state is left as it is.

    Raises:
        ConfigError: options that do not go together, or a network that cannot give what a loss reads.
    """
    own, other = side_of(student), side_of(teacher)
    losses: dict[str, tuple[Loss, float]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        for choice in config.losses:
            if choice.weight == 0:
                continue
            module = plugins.load("stages.losses", choice.name)
            _refuse_unreadable(choice.name, module.READS, own, other)
            try:
                losses[choice.name] = (module.build(own, other, **choice.options), choice.weight)
            except ValueError as error:
                raise ConfigError(f"distill.losses: {choice.name}: {error}") from error
    return losses


def side_of(detector: Detector) -> NetworkSide:
    """What losses are told of a detector."""
    shape = detector.num_classes, detector.strides, detector.channels
    return NetworkSide(detector.name, detector.kind, *shape, detector.gives, detector.mask_frame)


def _refuse_unreadable(loss: str, reads: Sequence[Reading], student: NetworkSide, teacher: NetworkSide) -> None:
    """Refuse a pair of which one cannot give what a loss reads; only the teacher gives "teacher_head", and the data give "targets"."""
    for role, side in (("student", student), ("teacher", teacher)):
        asked = [one for one in reads if one != "targets" and (one != "teacher_head" or role == "teacher")]
        if missing := [one for one in asked if one not in side.gives]:
            given = f"the {role}, {side.detector}, can give only {', '.join(side.gives)}"
            raise ConfigError(f"distill.losses: {loss} reads {', '.join(missing)}, but {given}; choose a different loss or {role}")


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


@dataclass(frozen=True)
class Lesson:
    """What the teacher contributes to one step: its outputs, the factor on the losses' weights, whether gradient shares are sampled."""

    teacher: Outputs
    factor: float
    sampled: bool


class Distillation(Task):
    """The student with its adapters; the teacher is not a submodule, so no optimizer or checkpoint contains it."""

    def __init__(
        self,
        detector: Detector,
        teacher: Teacher,
        losses: Mapping[str, tuple[Loss, float]],
        factor: Callable[[int], float],
        every: int = 0,
    ) -> None:
        super().__init__(detector)
        self.losses = nn.ModuleDict({name: loss for name, (loss, _) in losses.items()})
        self._weights = {name: weight for name, (_, weight) in losses.items()}
        self._factor = factor
        self._every = every
        self._teacher = teacher

    def prepare(self, batch: TrainingBatch, step: int) -> Lesson | None:
        """The teacher's lesson on the student's view, or on the clean form of it; None if there are no losses."""
        if not self.losses:
            return None
        return Lesson(
            self._teacher(batch.images if batch.clean is None else batch.clean),
            self._factor(step),
            bool(self._every) and step % self._every == 0,
        )

    def forward(self, batch: TrainingBatch, extra: Lesson | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The task losses as the baseline sums them, plus each weighted term.

        The named terms are unweighted; each comes with weighted/<term> and, if sampled, share/<term>: the norm of the term's gradient
        at all levels of the student's pyramid, as a share of the sum of all terms' norms.
        """
        if extra is None:
            return super().forward(batch, extra)
        student: Outputs = self.detector(batch.images, batch.targets)
        terms = dict(student.losses)
        parts = {"task": torch.stack(list(terms.values())).sum()}
        for name, loss in self.losses.items():
            assert isinstance(loss, Loss)
            for term, value in loss(student, extra.teacher, batch.targets).items():
                weighted = value * (self._weights[name] * loss.weight(term) * extra.factor)
                terms |= {f"{name}/{term}": value, f"weighted/{name}/{term}": weighted}
                part = f"{name}/{term.partition('/')[0]}"
                parts[part] = parts[part] + weighted if part in parts else weighted
        if extra.sampled:
            terms |= {f"share/{part}": share for part, share in gradient_shares(parts, student.pyramid).items()}
        return torch.stack(list(parts.values())).sum(), terms


def gradient_shares(parts: Mapping[str, Tensor], pyramid: Sequence[Tensor]) -> dict[str, Tensor]:
    """The norm of each part's gradient at the pyramid, over all levels, divided by the sum of these norms."""
    norms = {}
    for name, part in parts.items():
        grads: Sequence[Tensor | None] = ()
        if part.requires_grad:
            grads = torch.autograd.grad(part, list(pyramid), retain_graph=True, allow_unused=True)
        reached = [grad.detach().float().norm() for grad in grads if grad is not None]
        norms[name] = torch.stack([part.new_zeros(()), *reached]).norm()
    total = torch.stack(list(norms.values())).sum().clamp(min=1e-30)
    return {name: norm / total for name, norm in norms.items()}


def write_attention(out: Path, teacher: Detector, student: Detector, dataset: Dataset, split: str, num_images: int = 6) -> None:
    """Spatial attention of both networks on the split's first images, the mean over levels at the finest one's size, to attention.npz.

    Arrays `teacher` and `student` [num_images, H, W] in float32, over the network's input, and `image_ids`.
    """
    preprocessing, folder = dataset.facts.contract.preprocessing, dataset.images(split)
    rows = read_json(dataset.annotations(split))["images"][:num_images]
    images = [preprocess.apply(image_files.load_image(folder / row["file_name"], preprocessing), preprocessing)[0] for row in rows]
    batch = torch.from_numpy(np.stack(images))
    large, small = (_attention(network.eval(), batch).cpu().numpy() for network in (teacher, student))
    np.savez_compressed(out / ATTENTION, image_ids=np.array([row["id"] for row in rows]), teacher=large, student=small)


@torch.no_grad()
def _attention(network: Detector, images: Tensor) -> Tensor:
    device = next(network.parameters()).device
    levels = [spatial_attention(standardized(level)) for level in network(images.to(device)).pyramid]
    size = levels[0].shape[-2:]
    return torch.stack([nn.functional.interpolate(level, size=size, mode="bilinear") for level in levels]).mean(dim=0)[:, 0]
