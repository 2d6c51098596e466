"""A student that learns from its targets and from a frozen teacher at the same time."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from stages.config.distillation import Weight
from stages.detectors import Detector, Outputs, Reading
from stages.losses import Loss, NetworkSide
from stages.losses.features.attention_maps import spatial_attention, standardized
from stages.processes import mean_over_processes
from stages.training.balance import TASK, Balance
from stages.training.batches.loader import TrainingBatch
from stages.training.layers.compiling import passes_again
from stages.training.loop import Task
from stages.training.step_log import SHARE
from stages.training.teacher import Teacher

Found = tuple[str, Loss, Mapping[str, Tensor]]
"""A loss's name, the loss, and its terms in one step."""

LOSSES = "distill.losses"
"""Where losses are configured, and how errors of losses begin."""

FP16_SCALE = 2.0**14
"""Keeps gradients of means over many positions above the least that half precision can hold."""


def build_losses(
    config: DistillConfig, student: Detector, teacher: Detector, seed: int, *, key: str = LOSSES
) -> dict[str, tuple[Loss, Weight]]:
    """The configured losses with weight above 0 or auto, and their weights.

    New adapters depend on the seed; torch's random state is left as it is. Errors name `key` as the place of the losses.

    Raises:
        ConfigError: options that do not go together, or a network that cannot give what a loss reads.
    """
    own, other = side_of(student), side_of(teacher)
    losses: dict[str, tuple[Loss, Weight]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        for choice in config.losses:
            if not choice.enabled:
                continue
            module = plugins.load("stages.losses", choice.name)
            try:
                _refuse_unreadable(choice.name, module.READS, own, other)
                losses[choice.name] = (module.build(own, other, **choice.options), choice.weight)
            except ValueError as error:
                raise ConfigError(f"{key}: {choice.name}: {error}") from error
            except ConfigError as error:
                raise ConfigError(f"{key}: {str(error).removeprefix(f'{LOSSES}: ')}") from error
    return losses


def side_of(detector: Detector) -> NetworkSide:
    """What losses are told of a detector."""
    shape = detector.num_classes, detector.strides, detector.channels
    return NetworkSide(detector.name, detector.kind, *shape, detector.gives, detector.mask_frame, detector.head_shape)


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
    """What the teacher contributes to one step.

    factor: the factor on all losses' weights. sampled: whether shares of the gradient are logged. measured: whether weights follow them.
    """

    teacher: Outputs
    factor: float
    sampled: bool
    measured: bool


class Distillation(Task):
    """The student with its adapters; the teacher is not a submodule, so no optimizer or checkpoint contains it.

    Args:
        every: steps between samples of the shares of the gradient; 0: none.
        share: what the losses with weight auto get of it.
    """

    def __init__(
        self,
        detector: Detector,
        teacher: Teacher,
        losses: Mapping[str, tuple[Loss, Weight]],
        factor: Callable[[int], float],
        every: int = 0,
        share: float = DistillConfig.model_fields["share"].default,
    ) -> None:
        super().__init__(detector)
        self.losses = nn.ModuleDict({name: loss for name, (loss, _) in losses.items()})
        self.balance = Balance({name: weight for name, (_, weight) in losses.items()}, share)
        self.memory = (self.balance,) if any(weight == "auto" for _, weight in losses.values()) else ()
        self._factor = factor
        self._every = every
        self._norms: list[dict[str, Tensor]] = []
        self.teacher = teacher

    def prepare(self, batch: TrainingBatch, step: int) -> Lesson | None:
        """The teacher's lesson on the student's view, or on the clean form of it; None if there are no losses."""
        if not self.losses:
            return None
        sampled = bool(self._every) and step % self._every == 0
        images = batch.images if batch.clean is None else batch.clean
        return Lesson(self.teacher(images), self._factor(step), sampled, self.balance.due(step))

    def forward(self, batch: TrainingBatch, extra: Lesson | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The task losses as the baseline sums them, plus each weighted term.

        The named terms are unweighted; each comes with weighted/<term> and, if sampled, share/<term>: the norm of the term's gradient
        at all levels of the student's pyramid, as a share of the sum of all terms' norms. In steps in which weights that are found are
        measured, they come as weight/<term>. If a step has several parts, all have the weights that were found before it.
        """
        if extra is None:
            return super().forward(batch, extra)
        student: Outputs = self.detector(batch.images, batch.targets)
        terms = dict(student.losses)
        task = torch.stack(list(terms.values())).sum()
        found = [(name, loss, loss(student, extra.teacher, batch.targets)) for name, loss in self._named()]
        looked = self._look(task, found, student.pyramid, extra, alone=batch.parts == 1)
        total = {TASK: task}
        for name, loss, values in found:
            for term, value in values.items():
                part = _part(name, term)
                weighted = value * (self.balance.factor(part) * loss.weight(term) * extra.factor)
                terms |= {f"{name}/{term}": value, f"weighted/{name}/{term}": weighted}
                total[part] = total[part] + weighted if part in total else weighted
        return torch.stack(list(total.values())).sum(), terms | looked

    def end_step(self) -> None:
        """See Task.end_step: what was measured in the step's parts is one measurement, their mean over all processes."""
        if not self._norms:
            return
        measured, self._norms = self._norms, []
        mean = torch.stack([torch.stack(list(norms.values())) for norms in measured]).mean(dim=0)
        self.balance.see(dict(zip(measured[0], mean_over_processes(mean).tolist(), strict=True)))

    def _named(self) -> Iterator[tuple[str, Loss]]:
        for name, loss in self.losses.items():
            assert isinstance(loss, Loss)
            yield name, loss

    def _look(self, task: Tensor, found: Sequence[Found], pyramid: Sequence[Tensor], extra: Lesson, *, alone: bool) -> dict[str, Tensor]:
        """Measure the gradients if it is time to: the shares and the weights that are found, for the log; `alone`: a step in one part."""
        if not (extra.sampled or extra.measured):
            return {}
        parts = {TASK: task}
        for name, loss, values in found:
            for term, value in values.items():
                part, own = _part(name, term), value * loss.weight(term)
                parts[part] = parts[part] + own if part in parts else own
        norms = gradient_norms(parts, pyramid)
        looked: dict[str, Tensor] = {}
        if extra.measured:
            self._norms.append(norms)
            if alone:
                self.end_step()
            looked = {f"weight/{part}": task.new_tensor(self.balance.factor(part)) for part in self.balance.found()}
        if extra.sampled:
            factors = {part: 1.0 if part == TASK else self.balance.factor(part) * extra.factor for part in norms}
            looked |= {f"{SHARE}{part}": share for part, share in shares({p: n * factors[p] for p, n in norms.items()}).items()}
        return looked


def _part(loss: str, term: str) -> str:
    return f"{loss}/{term.partition('/')[0]}"


def gradient_norms(parts: Mapping[str, Tensor], pyramid: Sequence[Tensor]) -> dict[str, Tensor]:
    """The norm of each part's gradient at the pyramid, over all levels; where any of it is in half precision, scaled on its way.

    Outside of autocast, as every backward pass.
    """
    device = pyramid[0].device.type
    types = {torch.get_autocast_dtype(device)} if torch.is_autocast_enabled(device) else set()
    scale = FP16_SCALE if torch.float16 in types.union(level.dtype for level in pyramid) else 1.0
    norms = {}
    for name, part in parts.items():
        grads: Sequence[Tensor | None] = ()
        if part.requires_grad:
            up = torch.full_like(part, scale)
            with torch.autocast(part.device.type, enabled=False), passes_again():
                grads = torch.autograd.grad(part, list(pyramid), up, retain_graph=True, allow_unused=True)
        reached = [grad.detach().float().norm() / scale for grad in grads if grad is not None]
        norms[name] = torch.stack([part.new_zeros((), dtype=torch.float32), *reached]).norm()
    return norms


def shares(norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each divided by the sum of all; if any is not finite, all are NaN."""
    total = torch.stack(list(norms.values())).sum().clamp(min=1e-30)
    total = torch.where(total.isfinite(), total, torch.nan)
    return {name: norm / total for name, norm in norms.items()}


def write_attention(out: Path, teacher: Detector, student: Detector, dataset: Dataset, split: str, num_images: int = 6) -> None:
    """Spatial attention of both networks on the split's first images, the mean over levels at the finest one's size, to attention.npz.

    Arrays `teacher` and `student` [num_images, H, W] in float32, over the network's input, and `image_ids`.
    """
    preprocessing, folder = dataset.facts.contract.preprocessing, dataset.images(split)
    rows = read_json(dataset.annotations(split))["images"][:num_images]
    seen = [image_files.load(folder / row["file_name"], preprocessing) for row in rows]
    images = [preprocess.apply(one.pixels, preprocessing, one.size)[0] for one in seen]
    batch = torch.from_numpy(np.stack(images))
    large, small = (_attention(network.eval(), batch).cpu().numpy() for network in (teacher, student))
    np.savez_compressed(out / ATTENTION, image_ids=np.array([row["id"] for row in rows]), teacher=large, student=small)


@torch.no_grad()
def _attention(network: Detector, images: Tensor) -> Tensor:
    device = next(network.parameters()).device
    levels = [spatial_attention(standardized(level)) for level in network(images.to(device)).pyramid]
    size = levels[0].shape[-2:]
    return torch.stack([nn.functional.interpolate(level, size=size, mode="bilinear") for level in levels]).mean(dim=0)[:, 0]
