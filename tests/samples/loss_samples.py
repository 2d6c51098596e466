"""What losses are built and called with: random features, and tiny networks that answer for them."""

from dataclasses import replace
from typing import Any

import detector_samples
import torch
from torch import Tensor

from deploy import plugins
from stages.detectors import Detector, Outputs, Target
from stages.losses import Loss, NetworkSide
from stages.training.distillation import side_of

Member = NetworkSide | Detector
"""One of a loss's two networks: what is known of it, or itself if its head is asked for."""


def side(strides: tuple[int, ...], channels: tuple[int, ...]) -> NetworkSide:
    """A dense detector with such a pyramid, of which nothing else can be read."""
    return NetworkSide("fcos", "dense", 5, strides, channels, ("pyramid",), None)


OWN, OTHER = side((8, 16), (8, 8)), side((4, 8, 16), (12, 16, 12))


def pair(name: str) -> tuple[Member, Member]:
    """A student and a teacher that can give all that a loss reads."""
    reads = set(plugins.load("stages.losses", name).READS) - {"targets"}
    if reads <= {"pyramid"}:
        return OWN, OTHER
    able = (one for one in ("fcos", "faster_rcnn", "rt_detr_v2") if reads <= {*detector_samples.tiny(one).gives})
    kind = next(able)
    return detector_samples.tiny(kind, 0).eval(), detector_samples.tiny(kind, 5).eval().requires_grad_(False)


def known(member: Member) -> NetworkSide:
    """What a loss is told of it."""
    return side_of(member) if isinstance(member, Detector) else member


def outputs(member: Member, *, seed: int, batch: int = 2, size: int = 64, scale: float = 1.0) -> Outputs:
    """Those of random features of an image of `size` px."""
    generator = torch.Generator().manual_seed(seed)
    levels = zip(member.strides, member.channels, strict=True)
    maps = [torch.randn(batch, c, size // s, size // s, generator=generator) * scale for s, c in levels]
    return seen(member, tuple(m.requires_grad_() for m in maps), size)


def seen(member: Member, pyramid: tuple[Tensor, ...], size: int) -> Outputs:
    """The outputs for these features."""
    if not isinstance(member, Detector):
        return Outputs(pyramid, member.strides, {}, size=(size, size))
    if "teacher_head" in member.gives:
        return member.head_on(pyramid, (size, size))
    with torch.no_grad():
        answer: Outputs = member(torch.zeros(len(pyramid[0]), 3, size, size))
    return replace(answer, pyramid=pyramid)


def targets(batch: int = 2, *, offsets: tuple[tuple[int, int], ...] = ((0, 0),)) -> list[Target]:
    """Two objects in each image, and again at each offset (x, y)."""
    boxes = torch.tensor([[4.0, 8.0, 30.0, 40.0], [24.0, 30.0, 60.0, 58.0]])
    placed = torch.cat([boxes + torch.tensor([x, y, x, y]) for x, y in offsets])
    return [Target(placed, torch.tensor([1, 4] * len(offsets)))] * batch


def fresh(name: str, student: Member = OWN, teacher: Member = OTHER, **options: Any) -> Loss:
    """A loss whose zero-initialized weights are random, so that every path counts."""
    torch.manual_seed(0)
    loss: Loss = plugins.load("stages.losses", name).build(known(student), known(teacher), **options)
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return loss
