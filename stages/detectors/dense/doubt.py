"""Targets that are a teacher's detections: nothing is learned where they are in doubt, and no box that is not exact."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from stages.detectors import Target, TargetDoubt

Row = dict[str, Tensor]
"""One image's objects as torchvision expects them."""

CLASS_LOGITS = ("cls_logits", "objectness")
CLASS_LOSSES = ("classification", "objectness")
"""Terms that say what is where; the others are about boxes."""

_SURELY_NOTHING = -30.0
"""A logit at which neither a focal loss nor cross entropy asks for anything more."""


def heeded(
    targets: Sequence[Target], head: Mapping[str, Tensor], anchors: Sequence[Tensor], losses: Callable[[list[Row], dict[str, Tensor]], Row]
) -> dict[str, Tensor]:
    """The losses of classes with all objects, silent where nothing is to be learned, and those of boxes with the exact ones only.

    Args:
        head: what the head returned, rows [B, N, ...]. anchors: [N, 4] per image.
        losses: the detector's, of objects and a head.
    """
    quiet = silenced(targets, head, anchors)
    every = losses([row_of(one) for one in targets], quiet)
    exact = losses([_exact(one) for one in targets], dict(head))  # always, so that all processes sum alike
    return {name: every[name] if name in CLASS_LOSSES else exact[name] for name in every}


def silenced(targets: Sequence[Target], head: Mapping[str, Tensor], anchors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The head with fixed logits wherever an anchor's center is in a box of doubt and in no object's."""
    hidden = torch.stack([_hidden(target, own) for target, own in zip(targets, anchors, strict=True)])[..., None]
    return {
        name: torch.where(hidden, torch.full_like(values, _SURELY_NOTHING), values) if name in CLASS_LOGITS else values
        for name, values in head.items()
    }


def _hidden(target: Target, anchors: Tensor) -> Tensor:
    if target.doubt is None:
        return anchors.new_zeros(len(anchors), dtype=torch.bool)
    return _in_any(anchors, target.doubt.unsure) & ~_in_any(anchors, target.boxes)


def _in_any(anchors: Tensor, boxes: Tensor) -> Tensor:
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    inside = (center[:, None] >= boxes[:, :2]) & (center[:, None] < boxes[:, 2:])
    return inside.all(dim=-1).any(dim=1)


def _exact(target: Target) -> Row:
    kept = torch.ones_like(target.labels, dtype=torch.bool) if target.doubt is None else target.doubt.exact
    return {name: values[kept] for name, values in row_of(target).items()}


def row_of(target: Target) -> Row:
    """The target as losses receive it; "scores" only of detections, for heads that learn how good a box is."""
    row = {"boxes": target.boxes, "labels": target.labels}
    return row if target.scores is None else {**row, "scores": target.scores}


def is_doubtful(targets: Sequence[Target]) -> bool:
    """Whether the targets are detections."""
    return any(isinstance(target.doubt, TargetDoubt) for target in targets)
