"""What the losses of published methods are called with: random pyramids, heads, anchors and objects."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from loss_samples import OTHER, OWN, fresh, outputs, targets
from torch import Tensor

from stages.detectors import Decoded, Outputs
from stages.losses import NetworkSide

METHODS = (
    "hint",
    "channel_wise",
    "pearson",
    "attention_transfer",
    "fine_grained",
    "focal_global",
    "masked_generative",
    "decoupled",
    "feature_richness",
    "overhaul",
)
STUDENT = replace(OWN, gives=("pyramid", "head", "decoded", "teacher_head"))
NUM_ANCHORS, NUM_CLASSES = 2, 3


@dataclass(frozen=True)
class Anchored:
    """Answers `Outputs.decoded` with anchors: per position a square and a wide box."""

    size: int

    def decoded(self, found: Outputs) -> Decoded:
        """The boxes are the anchors themselves."""
        anchors = tuple(anchors_of(stride, self.size) for stride in found.strides)
        return Decoded(tuple(level[None] for level in anchors), anchors)


def anchors_of(stride: int, size: int) -> Tensor:
    """[H * W * 2, 4], row by row, a position's anchors together."""
    center = (torch.arange(size // stride) + 0.5) * stride
    y, x = (part.flatten() for part in torch.meshgrid(center, center, indexing="ij"))
    shapes = [(2 * stride, 2 * stride), (3 * stride, 1.5 * stride)]
    rows = [torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=1) for w, h in shapes]
    return torch.stack(rows, dim=1).flatten(0, 1)


def seen_by(side: NetworkSide, seed: int, size: int = 64, batch: int = 2) -> Outputs:
    """Random features with random class logits of every anchor, that need gradients, and anchors."""
    made = outputs(side, seed=seed, size=size, batch=batch)
    generator = torch.Generator().manual_seed(seed + 100)
    rows = [(len(level), level[0, 0].numel() * NUM_ANCHORS, NUM_CLASSES) for level in made.pyramid]
    logits = tuple(torch.randn(shape, generator=generator).requires_grad_() for shape in rows)
    network: Any = SimpleNamespace(decoded=Anchored(size).decoded)
    return replace(made, head={"class_logits": logits}, network=network)


def both(size: int = 64) -> tuple[Outputs, Outputs]:
    """A student's outputs and a teacher's."""
    return seen_by(STUDENT, 1, size), seen_by(OTHER, 2, size)


def learned(name: str, images: slice) -> tuple[dict[str, Tensor], list[Tensor]]:
    """A method's terms on some of four images, of which the first two have objects, and the gradients of its adapters."""
    loss = fresh(name, STUDENT, OTHER)
    student, teacher = (some_of(seen_by(side, seed, batch=4), images) for side, seed in ((STUDENT, 1), (OTHER, 2)))
    some, none = objects()
    terms = loss(student, teacher, [some, some, none, none][images])
    torch.stack(list(terms.values())).sum().backward()
    gradients = [parameter.grad for parameter in loss.parameters() if parameter.grad is not None]
    return {term: value.detach() for term, value in terms.items()}, gradients


def some_of(made: Outputs, images: slice) -> Outputs:
    """The outputs for some of the images."""
    head = {name: tuple(level[images] for level in levels) for name, levels in made.head.items()}
    return replace(made, pyramid=tuple(level[images] for level in made.pyramid), head=head)


def objects() -> Any:
    """Two objects in the first image, none in the second."""
    some = targets(1)[0]
    return [some, type(some)(some.boxes[:0], some.labels[:0])]
