"""Random heads of two images, and a network that answers for them in closed form."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deploy import plugins
from stages.detectors import (
    Decoded,
    DecodedQueries,
    Detector,
    Graph,
    GraphOptions,
    HeadShape,
    Kind,
    Outputs,
    Queries,
    Regions,
    Target,
    Towers,
)
from stages.losses import Loss, NetworkSide

SIZE, STRIDES, CHANNELS, CLASSES, BINS = 64, (8, 16), 4, 3, 5
ROWS = tuple((SIZE // stride) ** 2 for stride in STRIDES)


def squares(stride: int) -> Tensor:
    """Anchors three strides wide around the middles of cells."""
    middle = (torch.arange(SIZE // stride) + 0.5) * stride
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    center = torch.stack((x, y), dim=-1).reshape(-1, 2)
    return torch.cat((center - 1.5 * stride, center + 1.5 * stride), dim=1)


ANCHORS = tuple(squares(stride) for stride in STRIDES)


class HeadStandIn(Detector):
    """A head whose boxes are the anchors, moved by its deltas; its second stage and its decoder say what they are told."""

    strides, channels, num_classes, name = STRIDES, (CHANNELS, CHANNELS), CLASSES, "stand_in"

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.told: dict[str, Tensor] = {}
        self.to_logits = torch.randn(CLASSES, CHANNELS, generator=generator)
        self.to_deltas = torch.randn(4, CHANNELS, generator=generator)

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        raise NotImplementedError

    def graph(self, options: GraphOptions) -> Graph:
        raise NotImplementedError

    def decoded(self, outputs: Outputs) -> Decoded:
        moved = zip(outputs.head["box_deltas"], ANCHORS, strict=True)
        return Decoded(tuple(anchors + deltas for deltas, anchors in moved), ANCHORS)

    def regions(self, outputs: Outputs, boxes: Sequence[Tensor], *, masks: bool) -> Regions:
        return Regions(self.told["class_logits"], self.told["background"], self.told["boxes"])

    def decode_queries(self, outputs: Outputs, queries: Queries | None) -> DecodedQueries:
        own = Queries(self.told["features"], self.told["places"]) if queries is None else queries
        return DecodedQueries(own, self.told["class_logits"], self.told["boxes"])

    def towers(self, outputs: Outputs, convs: int) -> Towers:
        return Towers(outputs.pyramid, tuple(2 * level for level in outputs.pyramid), convs)

    def head_after(self, towers: Towers, size: tuple[int, int]) -> Outputs:
        logits, deltas = (
            tuple((level.flatten(2).transpose(1, 2) @ matrix.t()) for level in levels)
            for levels, matrix in ((towers.classes, self.to_logits), (towers.boxes, self.to_deltas))
        )
        return Outputs(towers.classes, STRIDES, {"class_logits": logits, "box_deltas": deltas}, size=size, network=self)


SHAPE = HeadShape((1, 1), bins=0, convs=4, channels=CHANNELS)


def side(kind: Kind = "dense", shape: HeadShape = SHAPE) -> NetworkSide:
    return NetworkSide("stand_in", kind, CLASSES, STRIDES, (CHANNELS, CHANNELS), (), None, shape)


def outputs(seed: int, *, name: str = "class_logits", bins: int = 0) -> Outputs:
    """Random features and heads of two images, that ask for their gradient."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).requires_grad_()

    num_classes = 1 if name == "objectness" else CLASSES
    head = {
        name: tuple(random(2, count, num_classes) for count in ROWS),
        "box_deltas": tuple(random(2, count, 4, scale=3.0) for count in ROWS),
    }
    if bins:
        head["box_distributions"] = tuple(random(2, count, 4, bins, scale=2.0) for count in ROWS)
    pyramid = tuple(random(2, CHANNELS, SIZE // stride, SIZE // stride) for stride in STRIDES)
    return Outputs(pyramid, STRIDES, head, size=(SIZE, SIZE), network=HeadStandIn(seed))


def targets() -> list[Target]:
    boxes = torch.tensor([[4.0, 8.0, 30.0, 40.0], [24.0, 30.0, 60.0, 58.0]])
    return [Target(boxes, torch.tensor([0, 2])), Target(boxes[1:] - 9, torch.tensor([1]))]


def built(name: str, kind: Kind = "dense", shape: HeadShape = SHAPE, **options: Any) -> Loss:
    torch.manual_seed(3)
    loss: Loss = plugins.load("stages.losses", name).build(side(kind, shape), side(kind, shape), **options)
    return loss


def part(made: Outputs, images: slice) -> Outputs:
    """The outputs of some of the images, as new leaves."""
    head = {name: tuple(level.detach()[images].requires_grad_() for level in levels) for name, levels in made.head.items()}
    pyramid = tuple(level.detach()[images].requires_grad_() for level in made.pyramid)
    return Outputs(pyramid, STRIDES, head, size=made.size, network=made.network)
